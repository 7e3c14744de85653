"""Corpora that are made of photographs."""

from pathlib import Path

from PIL import Image

#: Of scikit-image.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "retina.jpg")


def write_corpus(folder: Path, count: int, pictures: list[Image.Image], side: int = 64) -> None:
    """`count` small JPEGs that are all different, in two levels of folders."""
    small = [picture.resize((side * 2, side * 2)) for picture in pictures]
    for number in range(count):
        target = folder / f"{number % 7}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        left, top = number % side, number // side % side
        small[number % len(small)].crop((left, top, left + side, top + side)).save(target, quality=60 + number % 37)
