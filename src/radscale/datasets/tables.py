"""Read the CSV files that hospitals export: any usual encoding, quoted line breaks, and columns by the user's names."""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from radscale.errors import InputError

GZIP_MARK = b"\x1f\x8b"
MAX_HEADER = 100_000
BLOCK_BYTES = 1 << 20
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@dataclass(frozen=True)
class CsvTable:
    """Rows of a CSV file by column name, and the encoding that it turned out to have."""

    rows: list[dict[str, str]]
    columns: list[str]
    encoding: str

    def require(self, columns: Iterable[str], name: str, setting: str) -> None:
        """Raises InputError if a column of the table `name` is missing, with those found; `setting` names the columns."""
        for column in columns:
            if column not in self.columns:
                raise InputError(
                    f"{name}: no column '{column}'; found {', '.join(self.columns)}; name the right one in `{setting}`"
                )


@dataclass(frozen=True)
class CsvFile:
    """A CSV file that has been looked at; its rows are read one after the other, as often as asked."""

    path: Path
    columns: list[str]
    encoding: str
    delimiter: str

    def rows(self, keep: Iterable[str] | None = None) -> Iterator[dict[str, str]]:
        """Rows by column name, with the columns of `keep` (None: all).

        Raises:
            InputError: a row that is longer than the header, or quotes that do not close.
        """
        kept = None if keep is None else set(keep)
        with _open_text(self.path, self.encoding) as file:
            reader = csv.DictReader(file, delimiter=self.delimiter, strict=True)
            try:
                for row in reader:
                    if None in row:
                        raise InputError(
                            f"{self.path.name}: a row has more fields than the header ({', '.join(self.columns)}); quote commas"
                        )
                    yield {key: value or "" for key, value in row.items() if kept is None or key in kept}
            except csv.Error as error:
                raise InputError(f"{self.path.name}, line {reader.line_num}: not a CSV file ({error})") from None


def open_csv(path: Path, encoding: str | None = None) -> CsvFile:
    """Look at a CSV file.

    Args:
        path: of the file; comma, semicolon or tab separated, plain or gzipped.
        encoding: taken as given; None tries UTF-8 and UTF-16 (by their marks), then Windows-1252.

    Raises:
        InputError: no such file, bytes that no tried encoding has, or no header.
    """
    with _damage_named(path):
        with _open_bytes(path) as file:
            start = file.read(4)
        marks = [name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)]
        tried = [encoding] if encoding else [*marks, "utf-8", "cp1252"]
        problems = []
        for name in tried:
            problem = _problem_of(path, name)
            if problem is None:
                break
            problems.append(problem)
        else:
            place = problems[-1].start
            raise InputError(f"{path.name}: byte {place} is not {' or '.join(tried)}; say `encoding:` or save it as UTF-8")
        with _open_text(path, name) as text:
            header = text.readline(MAX_HEADER)
        delimiter = max(",;\t", key=header.count)
        with _open_text(path, name) as text:
            try:
                columns = csv.DictReader(text, delimiter=delimiter, strict=True).fieldnames
            except csv.Error as error:
                raise InputError(f"{path.name}, line 1: not a CSV file ({error})") from None
    if not columns:
        raise InputError(f"{path.name}: empty; a header line with column names is needed")
    return CsvFile(path, list(columns), name, delimiter)


def read_csv(path: Path, encoding: str | None = None, *, keep: Iterable[str] | None = None) -> CsvTable:
    """Read a whole CSV file, as `open_csv` finds it.

    Args:
        path: see `open_csv`.
        encoding: see `open_csv`.
        keep: columns that the rows hold, for tables with many more than are needed; None holds all.

    Raises:
        InputError: see `open_csv` and `CsvFile.rows`.
    """
    file = open_csv(path, encoding)
    return CsvTable(list(file.rows(keep)), file.columns, file.encoding)


def _problem_of(path: Path, encoding: str) -> UnicodeDecodeError | None:
    """The first byte that is not of an encoding, counted from the beginning of the file."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise InputError(f"{path.name}: '{encoding}' is not an encoding; e.g. utf-8, cp1252, latin-1") from None
    place = 0
    with _open_bytes(path) as file:
        while True:
            block = file.read(BLOCK_BYTES)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                error.start += place - held
                return error
            if not block:
                return None
            place += len(block)


def _open_bytes(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MARK
    return cast(IO[bytes], gzip.open(path) if packed else path.open("rb"))


def _open_text(path: Path, encoding: str) -> IO[str]:
    return io.TextIOWrapper(cast(BinaryIO, _open_bytes(path)), encoding=encoding, newline="")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct the path of the table") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path.name}: damaged gzip file; fetch it again") from None


def read_columns(path: Path) -> list[str]:
    """Column names of a comma separated table, plain or gzipped, without reading the rest; what is no table has none of use."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            return next(csv.reader([file.readline(MAX_HEADER)]), [])
    except (OSError, EOFError, csv.Error, zlib.error):
        return []
