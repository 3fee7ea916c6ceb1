"""Read the CSV files that hospitals export: any usual encoding, quoted line breaks, and columns by the user's names."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from radscale.errors import InputError

GZIP_MARK = b"\x1f\x8b"
MAX_HEADER = 100_000
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


def read_csv(path: Path, encoding: str | None = None, *, keep: Iterable[str] | None = None) -> CsvTable:
    """Read a CSV file.

    Args:
        path: of the file; comma, semicolon or tab separated, plain or gzipped.
        encoding: taken as given; None tries UTF-8 and UTF-16 (by their marks), then Windows-1252.
        keep: columns that the rows hold, for tables with many more than are needed; None holds all.

    Raises:
        InputError: no such file, bytes that no tried encoding has, no header, or a row of another length.
    """
    data = _read_bytes(path)
    marks = [name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)]
    tried = [encoding] if encoding else [*marks, "utf-8", "cp1252"]
    text = used = None
    problem: UnicodeDecodeError | None = None
    for name in tried:
        try:
            text, used = data.decode(name), name
            break
        except UnicodeDecodeError as error:
            problem = error
        except LookupError:
            raise InputError(f"{path.name}: '{name}' is not an encoding; e.g. utf-8, cp1252, latin-1") from None
    if text is None or used is None:
        assert problem is not None
        raise InputError(f"{path.name}: byte {problem.start} is not {' or '.join(tried)}; say `encoding:` or save it as UTF-8")
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    kept = None if keep is None else set(keep)
    cleaned = []
    try:
        for row in reader:
            if None in row:
                raise InputError(
                    f"{path.name}: a row has more fields than the header ({', '.join(reader.fieldnames or ())}); quote commas"
                )
            cleaned.append({key: value or "" for key, value in row.items() if kept is None or key in kept})
    except csv.Error as error:
        raise InputError(f"{path.name}, line {reader.line_num}: not a CSV file ({error})") from None
    if not reader.fieldnames:
        raise InputError(f"{path.name}: empty; a header line with column names is needed")
    return CsvTable(cleaned, list(reader.fieldnames), used)


def read_columns(path: Path) -> list[str]:
    """Column names of a comma separated table, plain or gzipped, without reading the rest; what is no table has none of use."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            return next(csv.reader([file.readline(MAX_HEADER)]), [])
    except (OSError, EOFError, csv.Error, zlib.error):
        return []


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(GZIP_MARK) else data
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct the path of the table") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path.name}: damaged gzip file; fetch it again") from None
