"""Positions of the files inside a tar, so that they can be read in place."""

import dataclasses
import os
import re
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from cdnv2_jax.bounded_reading import refuse_irregular
from cdnv2_jax.data.storage import read_part, version_of
from cdnv2_jax.errors import UserError

BLOCK = 512
FILE_TYPES = (b"0", b"\0", b"7")
SPARSE, EXTENDED = b"S", (b"x", b"g")
LONG_NAME, PAX = b"L", b"x"  # GNU's and POSIX's way to give the next member a long name
PAX_PATH = re.compile(rb"(?:\A|\n)\d+ path=([^\n]*)\n")
MOST_EXTENDED = 1 << 20  # bytes of such a header that are read


@dataclasses.dataclass(frozen=True)
class Member:
    """A regular file in a tar.

    Attributes:
      name: its name, with the folders.
      offset: position of the contents in the whole tar, in bytes.
      size: size of the contents, in bytes.
    """

    name: str
    offset: int
    size: int


class TarFile:
    """A tar that is read at given positions, from many threads at once; it reopens its file after unpickling."""

    def __init__(self, path: Path):
        self.path = path
        self._opened: int | None = None

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.__init__(path)

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return os.fstat(self._descriptor()).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes; raise UserError if there are fewer."""
        try:
            data = self._fetch(offset, size)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if len(data) != size:
            raise UserError(f"{self.path} ends before its contents do: copy or download it again")
        return data

    def _fetch(self, offset: int, size: int) -> bytes:
        """Read `size` bytes, fewer at the end."""
        return os.pread(self._descriptor(), size, offset)

    def from_front_to_back(self) -> "TarFile":
        """Return a reader of the same tar for many small parts, one after the other."""
        return self

    def member(self, offset: int, size: int) -> tuple[str, bytes]:
        """Return the name and bytes of the member whose bytes begin at `offset`."""
        data = self.read(offset - BLOCK, BLOCK + size)
        return _name(data), data[BLOCK:]

    def members(self, start: int = 0, end: int | None = None) -> Iterator[Member]:
        """Yield the regular files of the tar at [start, end) of this file, without directories and links.

        Raises:
          UserError: it is not a tar, ends early, or has sparse files. A tar must end with a block of zeros, because
            one truncated between two files would otherwise pass for complete.
        """
        end = self.size() if end is None else end
        position, long_name = start, None
        while True:
            if position + BLOCK > end:
                raise UserError(f"{self.path} ends before its contents do: copy or download it again")
            header = self.read(position, BLOCK)
            if not any(header):
                return
            size = self._checked_size(header, position)
            kind, offset = header[156:157], position + BLOCK
            position = offset + (size + BLOCK - 1) // BLOCK * BLOCK
            if position > end:
                raise UserError(f"{self.path} ends inside {_name(header)!r}: copy or download it again")
            more = self.read(offset, min(size, MOST_EXTENDED)) if kind in (LONG_NAME, *EXTENDED) else b""
            if kind == SPARSE or (kind in EXTENDED and b" size=" in more):
                raise UserError(f"{self.path}: {_name(header)!r} is sparse or extended: pack it with tar --format=gnu")
            if kind == LONG_NAME:
                long_name = _text(more)
            elif kind == PAX:
                path = PAX_PATH.search(more)
                long_name = _text(path[1]) if path else long_name
            else:
                if kind in FILE_TYPES:
                    yield Member(long_name or _name(header), offset, size)
                long_name = None

    def _descriptor(self) -> int:
        opened = self._opened
        if opened is None:
            try:
                refuse_irregular(os.stat(self.path))
                opened = self._opened = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except ValueError as error:
                raise UserError(f"{self.path} cannot be opened: {error}") from error
            except OSError as error:
                raise UserError(f"{self.path} cannot be opened: {error.strerror or error}") from error
            # Two threads may get here at once; both descriptors stay open as long as this object lives.
            weakref.finalize(self, os.close, opened)
        return opened

    def _checked_size(self, header: bytes, position: int) -> int:
        try:
            # The checksum counts itself as eight blanks.
            right = sum(header) - sum(header[148:156]) + 8 * ord(" ") == _number(header[148:156])
            size = _number(header[124:136])
        except ValueError:
            right, size = False, 0
        if not right or size < 0:
            raise UserError(f"{self.path} is not a tar, or damaged at byte {position}: copy or download it again")
        return size


class _TarInBucket(TarFile):
    """A tar in a bucket: a part is a request or, read from front to back, a piece of a block that is kept."""

    BLOCK = 4 << 20  # takes about as long to arrive as the answer to a request

    def __init__(self, path: Path, in_blocks: bool = False):
        super().__init__(path)
        self._in_blocks, self._block, self._start = in_blocks, b"", 0

    @cached_property
    def _size(self) -> int:
        try:
            return version_of(self.path)[0]
        except OSError as error:
            raise UserError(f"{self.path} cannot be opened: {error.strerror}") from error

    def size(self) -> int:
        return self._size

    def from_front_to_back(self) -> TarFile:
        return _TarInBucket(self.path, in_blocks=True)

    def _fetch(self, offset: int, size: int) -> bytes:
        if not self._in_blocks:
            return read_part(self.path, offset, size)
        if not self._start <= offset <= offset + size <= self._start + len(self._block):
            self._start, self._block = offset, read_part(self.path, offset, max(size, self.BLOCK))
        return self._block[offset - self._start :][:size]


def open_tar(path: Path) -> TarFile:
    """Return the tar at a path, which is opened at its first read."""
    return TarFile(path) if isinstance(path, Path) else _TarInBucket(path)


def _number(field: bytes) -> int:
    """Parse octal digits or, if the first bit is set, a binary number."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _name(header: bytes) -> str:
    """Return the name in a header; the POSIX format has a second field for its folders."""
    folders = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{folders}/{_text(header[:100])}" if folders else _text(header[:100])


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")
