"""`radet explain`: pictures in; for each a picture of where the encoder's view moved, and the reasons as JSON."""

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from radet.errors import ConfigError, FetchError, ImageError


def explain(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Picture files.")],
    out: Annotated[
        str, typer.Option(help="A folder for NAME.png and NAME.json of each picture; what is there already stays.")
    ],
    model: Annotated[
        str, typer.Option(help="A bundled model's name, a checkpoint folder, s3://bucket/prefix or hf://org/name.")
    ] = "radet-lite",
) -> None:
    """Explain scores: verdict and threshold in words, what each branch contributed, how unusual the drift is among real
    pictures, and a heat map of where it happened.

    [bold]Example[/bold]

      radet explain holiday.jpg --out why/

    [bold]Exit codes[/bold]: 0 all pictures explained; 1 some could not be read; 2 the request cannot work.
    """
    from PIL import Image

    from pipelines.new_folder import local_folder
    from pipelines.s3 import greet
    from pipelines.storage import require_writable
    from pipelines.weights import find_encoders, local_model
    from radet.detector import Detector
    from radet.explain import explain as run

    if away := next((image for image in images if "://" in image), None):
        raise ConfigError(f"{away} is no file: radet explain reads files only, so fetch it first (curl -O, aws s3 cp)")
    paths = [Path(image) for image in images]
    if all(path.is_dir() for path in paths):
        raise ConfigError(f"{paths[0]} is a folder: name the pictures in it, as {paths[0]}/*.jpg does")
    console = Console(highlight=False, markup=False)
    folder = local_folder(out)
    require_writable(str(folder))
    greet(model)
    find_encoders()
    detector = Detector.from_pretrained(local_model(model))
    failed, heat = 0, False
    for image, name in zip(paths, _names(paths, folder), strict=True):
        try:
            found = run(detector, image)
        except (ImageError, FetchError) as error:
            failed += 1
            console.print(f"{image}: {error.code}: {error}", style="red", soft_wrap=True)
            continue
        heat = heat or found.heat is not None
        side = max(448, found.crop.shape[0])
        sheet = Image.new("RGB", (2 * side, side))
        sheet.paste(Image.fromarray(found.crop).resize((side, side), Image.Resampling.BICUBIC), (0, 0))
        sheet.paste(found.overlay(side=side), (side, 0))
        sheet.save(folder / f"{name}.png")
        (folder / f"{name}.json").write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
        console.print(f"{image}: {name}.png", style="bold", soft_wrap=True)
        for sentence in found.sentences:
            console.print(f"  {sentence}", soft_wrap=True)
        if origin := found.score.digital_source_type:
            console.print(f"  The file says of itself: {origin} (not verified, no part of the score).", soft_wrap=True)
    if failed < len(images):
        if heat:
            console.print(
                "Left: what the detector looked at, the centre. Right: where its view moved, dark the least, pale the "
                "most within that picture.",
                soft_wrap=True,
            )
        console.print(f"Pictures and JSON: {out}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _names(images: list[Path], folder: Path) -> list[str]:
    """The files' stems, counted up where two would meet, or what is in `folder`: it may be the pictures themselves."""
    taken = {path.stem for path in folder.iterdir() if path.suffix in {".png", ".json"}}
    names: list[str] = []
    for image in images:
        numbered = (f"{image.stem}-{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([image.stem], numbered) if name not in taken))
        taken.add(names[-1])
    return names
