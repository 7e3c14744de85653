"""The tags of a TIFF, and of an EXIF block, which is one. They may announce anything, so little is read at a time."""

import struct
from typing import NamedTuple

from radet.errors import ImageError

# Pictures have dozens of tags, and as many numbers in one as they have rows. More is an attack on our time and, where
# Pillow reads them too, on its memory.
MAX_TAGS = 4_096
MAX_NUMBERS = 1 << 18

_ORIENTATION = 0x0112
_LETTERS = {1: "B", 3: "H", 4: "I", 7: "B"}  # BYTE, SHORT, LONG, UNDEFINED: all that the tags read here use
_BYTES = {1, 2, 7}  # types that Pillow leaves as bytes; 2 is text


class _Values(NamedTuple):
    """Where a tag's values lie."""

    kind: int
    length: int
    at: int


class Tags:
    """The first directory; of a repeated tag the first, as for Pillow. All raise struct.error for data that end early.

    Values of another type than whole numbers or bytes count as none.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(b"II") else ">"
        self._tags: dict[int, _Values] = {}
        (directory,) = self._unpack("I", 4)
        (entries,) = self._unpack("H", directory)
        for entry in range(directory + 2, directory + 2 + 12 * min(entries, MAX_TAGS), 12):
            tag, kind, length = self._unpack("HHI", entry)
            inline = length * struct.calcsize(_LETTERS.get(kind, "")) <= 4
            self._tags.setdefault(tag, _Values(kind, length, entry + 8 if inline else self._unpack("I", entry + 8)[0]))

    def __contains__(self, tag: int) -> bool:
        return tag in self._tags

    @property
    def orientation(self) -> int:
        """1 to 8; 1 where there is none."""
        value = self.number(_ORIENTATION)
        return value if 1 <= value <= 8 else 1

    def number(self, tag: int) -> int:
        """The first value, or 0."""
        return next(iter(self.numbers(tag, 1)), 0)

    def numbers(self, tag: int, most: int = MAX_NUMBERS) -> tuple[int, ...]:
        """The first values."""
        kind, length, at = self._tags.get(tag, _Values(0, 0, 0))
        return self._unpack(f"{min(length, most)}{_LETTERS[kind]}", at) if kind in _LETTERS else ()

    def bytes(self, tag: int) -> bytes:
        """The values of a tag of bytes."""
        kind, length, at = self._tags.get(tag, _Values(0, 0, 0))
        return self._data[at : at + length] if _LETTERS.get(kind) == "B" else b""

    def require_few_numbers(self) -> None:
        """Raises ImageError corrupt where a tag announces more than Pillow should ever turn into Python's numbers."""
        for tag, values in self._tags.items():
            if values.kind not in _BYTES and values.length > MAX_NUMBERS:
                raise ImageError("corrupt", f"tag {tag} of the TIFF has {values.length} values")

    def _unpack(self, letters: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + letters, self._data, at)


def exif_orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8, of an EXIF block with or without its "Exif" prefix; 1 where it cannot be read."""
    try:
        return Tags(exif.removeprefix(b"Exif\0\0")).orientation
    except struct.error:
        return 1
