"""A sample corpus for `make demo`: photographs that come with scikit-image, in several formats, and broken files.

python -m jobs.sample FOLDER
"""

import shutil
import struct
import sys
import zlib
from pathlib import Path

import skimage
from PIL import Image

_FOLDERS = ("photographs", "copies", "broken")
_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
)


def write_sample(folder: Path) -> int:
    """Write the corpus into a folder that is new, or holds an earlier one; returns the number of files."""
    if folder.exists() and not {path.name for path in folder.iterdir()} <= set(_FOLDERS):
        sys.exit(f"{folder} holds other files: give a new folder")
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    source = Path(skimage.__file__).parent / "data"
    for name in _PHOTOGRAPHS:
        shutil.copy(source / name, folder / "photographs")
        with Image.open(source / name) as opened:
            picture = opened.convert("RGB")
        stem = Path(name).stem
        picture.save(folder / "photographs" / f"{stem} q85.jpg", quality=85)
        picture.save(folder / "photographs" / f"{stem}.webp", quality=80)
        picture.resize((picture.width // 2, picture.height // 2)).save(folder / "photographs" / f"{stem}_half.jpg")
    shutil.copy(source / "rocket.jpg", folder / "copies" / "the same rocket.jpg")
    _write_broken(folder / "broken", (source / "rocket.jpg").read_bytes())
    return sum(1 for path in folder.rglob("*") if not path.is_dir())


def _write_broken(folder: Path, jpeg: bytes) -> None:
    (folder / "cut short.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<!doctype html><title>404</title>")
    (folder / "drawing.svg").write_bytes(b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    (folder / "bomb.png").write_bytes(_png_bomb(20_000))
    (folder / "gone.jpg").symlink_to("nowhere.jpg")


def _png_bomb(side: int) -> bytes:
    """A grey PNG of side x side pixels that is a few hundred kilobytes small."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" * (side // 8 + 1)) * side, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"{write_sample(Path(sys.argv[1]))} files in {sys.argv[1]}")  # noqa: T201
