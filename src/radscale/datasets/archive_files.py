"""The files of an archive: of a folder tree, within tar and zip files, or those that a DICOMDIR names.

They are listed once, one line each, in a file: an archive of millions is never held in memory.
"""

import json
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pydicom

from radscale.datasets.exclusions import Excluded
from radscale.datasets.files import walk_files
from radscale.errors import InputError

NOT_IMAGES = (".csv", ".json", ".jsonl", ".png", ".parquet", ".txt", ".md", ".hl7")
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
DICOMDIR = "DICOMDIR"
COPY_BYTES = 1 << 20


class ArchiveFile(NamedTuple):
    """Where the bytes of one input are."""

    path: str
    """Relative to the archive's folder."""
    member: str = ""
    """Name within a tar or zip file."""
    place: int = -1
    """Of a member: its offset in a plain tar, its number in a zip or among what was unpacked of a compressed tar."""
    size: int = -1
    """Of a member in bytes, as its container declares it."""
    excluded: str = ""
    """Why it cannot be read, or empty."""

    @property
    def name(self) -> str:
        return f"{self.path}!/{self.member}" if self.member else self.path


def is_container(path: Path) -> bool:
    """Whether its members are inputs."""
    return path.name.lower().endswith((".zip", *TAR_SUFFIXES))


class ArchiveListing:
    """All inputs of an archive, in a fixed order.

    Args:
        source: a folder, a tar or zip file, or a DICOMDIR.
        unpacked: folder for the members of compressed tar files, which cannot be read at a place.
        max_bytes: a larger member is not unpacked.
    """

    def __init__(self, source: Path, unpacked: Path, max_bytes: int) -> None:
        self.source, self.unpacked, self.max_bytes = source, unpacked, max_bytes
        self.folder = source if source.is_dir() else source.parent
        self.not_read: Counter[str] = Counter()
        """Suffix to how many files that are no images."""
        self._num_unpacked = 0

    def __iter__(self) -> Iterator[ArchiveFile]:
        if self.source.is_dir():
            names: Iterator[str] = walk_files(self.source)
        elif self.source.name.upper() == DICOMDIR:
            yield from map(ArchiveFile, _named_by_dicomdir(self.source))
            return
        else:
            names = iter([self.source.name])
        for name in names:
            path = self.folder / name
            if self._is_other(name):
                continue
            if is_container(path) and path.is_file():
                yield from self._members(name, path)
            else:
                yield ArchiveFile(name)

    def _is_other(self, name: str) -> bool:
        """Counts it, if it is no image."""
        suffix = DICOMDIR if Path(name).name.upper() == DICOMDIR else Path(name).suffix.lower()
        other = suffix in (*NOT_IMAGES, DICOMDIR)
        self.not_read[suffix] += other
        return other

    def _members(self, name: str, path: Path) -> Iterator[ArchiveFile]:
        reader = self._zip_members if path.suffix.lower() == ".zip" else self._tar_members
        empty = True
        try:
            for member in reader(name, path):
                empty = False
                if not self._is_other(member.member):
                    yield member
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            # What was listed before the damage stays; the container itself answers for the rest.
            yield ArchiveFile(name, excluded=f"the tar or zip file is damaged ({type(error).__name__})")
        except Exception as error:  # zlib and lzma have errors of their own
            yield ArchiveFile(name, excluded=f"the tar or zip file cannot be unpacked ({type(error).__name__})")
        else:
            if empty:
                yield ArchiveFile(name, excluded="the tar or zip file holds no files")

    def _zip_members(self, name: str, path: Path) -> Iterator[ArchiveFile]:
        with zipfile.ZipFile(path) as archive:
            for place, info in enumerate(archive.infolist()):
                if not info.is_dir():
                    yield ArchiveFile(name, info.filename or "?", place, info.file_size)

    def _tar_members(self, name: str, path: Path) -> Iterator[ArchiveFile]:
        with path.open("rb") as file:
            file.seek(257)
            plain = file.read(5) == b"ustar"
        with tarfile.open(path, "r:" if plain else "r|*") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # the module would keep them all
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    yield ArchiveFile(name, member.name, excluded="a link, device or sparse file within a tar file")
                elif plain:
                    yield ArchiveFile(name, member.name, member.offset_data, member.size)
                else:
                    yield ArchiveFile(name, member.name, self._unpack(archive, member), member.size)

    def _unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
        number, self._num_unpacked = self._num_unpacked, self._num_unpacked + 1
        if member.size <= self.max_bytes and Path(member.name).suffix.lower() not in NOT_IMAGES:
            self.unpacked.mkdir(parents=True, exist_ok=True, mode=0o700)
            data = archive.extractfile(member)
            assert data is not None
            with (self.unpacked / str(number)).open("wb") as file:
                while block := data.read(COPY_BYTES):
                    file.write(block)
        return number


def _named_by_dicomdir(path: Path) -> Iterator[str]:
    """Referenced File IDs (0004,1500) of a DICOMDIR (PS3.3 F.3), as paths relative to its folder."""
    try:
        records = pydicom.dcmread(path).get("DirectoryRecordSequence") or ()
        names = [record.get("ReferencedFileID") for record in records]
    except Exception as error:
        raise InputError(f"{path.name}: not a readable DICOMDIR ({type(error).__name__}); give the folder instead") from None
    for name in names:
        parts = [name] if isinstance(name, str) else list(name or ())
        # A path that leaves the folder is looked for within it, and so not found.
        if parts:
            yield "/".join(part for part in map(str, parts) if part not in ("..", "."))


def read_archive_file(folder: Path, unpacked: Path, entry: ArchiveFile, max_bytes: int) -> bytes:
    """The bytes of one input.

    Raises:
        Excluded: it is missing, unreadable, or larger than `max_bytes`, by what is declared or by what comes out.
    """
    if entry.excluded:
        raise Excluded("unreadable", entry.excluded)
    if entry.size > max_bytes:
        raise Excluded("too_large", f"{entry.size:,} bytes within a tar or zip file, the most is {max_bytes:,}")
    path = folder / entry.path
    try:
        if not entry.member:
            return _read_file(path, max_bytes)
        if path.suffix.lower() == ".zip":
            archive = _open_zip(path, path.stat().st_mtime_ns)
            with archive.open(archive.infolist()[entry.place]) as file:
                data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise Excluded("too_large", f"more than {max_bytes:,} bytes come out of a zip file")
            return data
        if (unpacked / str(entry.place)).is_file():
            return _read_file(unpacked / str(entry.place), max_bytes)
        with path.open("rb") as tar:
            tar.seek(entry.place)
            data = tar.read(entry.size)
        if len(data) < entry.size:
            raise Excluded("unreadable", "the tar file ends within it")
        return data
    except Excluded:
        raise
    except PermissionError:
        raise Excluded("unreadable", "the file may not be read by this user") from None
    except (FileNotFoundError, NotADirectoryError):
        raise Excluded("missing_file", "it is named, but it is not there") from None
    except MemoryError:
        raise Excluded("too_large", "it needs more memory than a worker may take") from None
    except Exception as error:  # zip files: passwords, methods, damage of all kinds; loops of links; impossible names
        raise Excluded("unreadable", f"cannot be read ({type(error).__name__})") from None


def _read_file(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():  # a pipe would be waited for
        if path.is_symlink() or path.exists():
            raise Excluded("unreadable", "a broken link, or no regular file")
        raise FileNotFoundError
    size = path.stat().st_size
    if size > max_bytes:
        raise Excluded("too_large", f"{size:,} bytes, the most is {max_bytes:,}")
    return path.read_bytes()


@lru_cache(maxsize=2)
def _open_zip(path: Path, changed: int) -> zipfile.ZipFile:
    """Its table of contents may be long, and its members are read one after the other."""
    return zipfile.ZipFile(path)


def write_listing(entries: Iterable[ArchiveFile], path: Path) -> int:
    """Write all inputs to a file, whole or not at all; returns how many."""
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="ascii") as file:
        for entry in entries:
            file.write(json.dumps(entry) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    return count


def read_listing(path: Path, start: int = 0) -> Iterator[ArchiveFile]:
    """From the input of number `start` on."""
    with path.open(encoding="ascii") as file:
        for number, line in enumerate(file):
            if number >= start:
                yield ArchiveFile(*json.loads(line))
