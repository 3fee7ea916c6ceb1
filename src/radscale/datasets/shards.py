"""Tar shards that WebDataset readers stream, and that give random access through offsets in the manifest."""

import hashlib
import os
import tarfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from radscale.errors import InputError

BLOCK = 512


@dataclass(frozen=True)
class Member:
    """Where an image's PNG bytes lie."""

    shard: str
    offset: int
    size_bytes: int
    sha256: str


class ShardWriter:
    """Appends members to tar files of at most `max_bytes`; the same members give the same bytes.

    Args:
        folder: of the shards; its name begins their paths.
        max_bytes: of a shard.
        first: number of its first shard.
        last: (shard, offset, size in bytes) of the last member to keep of what is there: the writer goes on after it. None
            starts anew.
    """

    def __init__(
        self, folder: Path, max_bytes: int = 1 << 30, *, first: int = 0, last: tuple[str, int, int] | None = None
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.index, self.end = first - 1, 0
        self.file: BinaryIO | None = None
        if last is not None:
            self.index, self.end = int(Path(last[0]).stem), last[1] + _padded(last[2])
        for path in self.folder.iterdir():
            if int(path.stem) > self.index:
                path.unlink()
        if last is not None:
            self.file = self._path.open("r+b")
            self.file.truncate(self.end)
            self.file.seek(self.end)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.index:06d}.tar"

    def add(self, name: str, data: bytes, sha256: str | None = None) -> Member:
        """Append one file; whoever has its hash already hands it over."""
        if self.file is None or self.end + len(data) + 2 * BLOCK > self.max_bytes:
            self._next_shard()
        assert self.file is not None
        header = tarfile.TarInfo(name)
        header.size, header.mtime, header.mode = len(data), 0, 0o644
        self.file.write(header.tobuf(tarfile.USTAR_FORMAT))
        self.file.write(data + bytes(_padded(len(data)) - len(data)))
        offset = self.end + BLOCK
        self.end = offset + _padded(len(data))
        return Member(f"{self.folder.name}/{self._path.name}", offset, len(data), sha256 or hashlib.sha256(data).hexdigest())

    def sync(self) -> None:
        """Make what was added safe against a kill and a loss of power."""
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())

    def _next_shard(self) -> None:
        self._close()
        self.index, self.end = self.index + 1, 0
        self.file = self._path.open("wb")

    def _close(self) -> None:
        if self.file is not None:
            # POSIX: two blocks of zeros end an archive, filled up to a record.
            self.file.write(bytes(2 * BLOCK + -(self.end + 2 * BLOCK) % tarfile.RECORDSIZE))
            self.sync()
            self.file.close()
            self.file = None


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK) * BLOCK


class ShardReader:
    """Reads members of a dataset's shards. Threads may share it, and a process may fork with it: no read moves a position.

    Shards stay open, at most `max_open` of them: on a network disk opening a file costs as much as reading an image.
    """

    def __init__(self, folder: Path, max_open: int = 256) -> None:
        self.folder, self.max_open = folder, max_open
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()  # the one used last stands last
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ShardReader"], tuple[Path, int]]:
        return ShardReader, (self.folder, self.max_open)

    def read(self, shard: str, offset: int, size_bytes: int) -> bytes:
        """The bytes of one member.

        Args:
            shard: path relative to the dataset.
            offset: of the first byte in the shard.
            size_bytes: of the member.

        Raises:
            InputError: the shard is missing, unreadable or shorter than the manifest says.
        """
        opened = self._descriptor(shard)  # held while it is read, so that no other thread's eviction closes it
        try:
            data = os.pread(opened.number, size_bytes, offset)
        except OSError as error:
            raise InputError(f"{shard}: cannot be read ({error.strerror}); restore the shard or ingest again") from None
        if len(data) != size_bytes:
            raise InputError(
                f"{shard}: ends before byte {offset + size_bytes}; the shard is damaged, restore it or ingest again"
            )
        return data

    def will_read(self, shard: str, offset: int, size_bytes: int) -> None:
        """Let the system fetch a member's bytes while others are read: four times the reads per second from a cold disk."""
        if hasattr(os, "posix_fadvise"):
            opened = self._descriptor(shard)
            os.posix_fadvise(opened.number, offset, size_bytes, os.POSIX_FADV_WILLNEED)

    def _descriptor(self, shard: str) -> "_Descriptor":
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        opened = _Descriptor(self.folder / shard)  # not under the lock: on a network disk this may take long
        with self._lock:
            self._open[shard] = opened
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        return opened


class _Descriptor:
    """Of an open file, which is closed when nobody holds it any more: a thread may still read what another one evicts."""

    def __init__(self, path: Path) -> None:
        try:
            self.number = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise InputError(
                f"{path.parent.name}/{path.name}: shard is missing from the dataset; restore it or ingest again"
            ) from None

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
