"""`radet explain`: pictures in; for each a picture of where the encoder's view moved, and the reasons as JSON."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.options import Model
from radet.errors import ConfigError, FetchError, ImageError

if TYPE_CHECKING:
    from radet.explain import Explanation
    from radet.stability import Stability


def explain(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Picture files.")],
    out: Annotated[
        str, typer.Option(help="A folder for NAME.png and NAME.json of each picture; what is there already stays.")
    ],
    model: Model = "radet-lite",
    suite: Annotated[
        str | None,
        typer.Option(
            help="Degradations after which each picture is scored again, suites or conditions as of radet evaluate; "
            "clean for none. Default: those that the checkpoint's thresholds hold after."
        ),
    ] = None,
) -> None:
    """Explain scores: verdict and threshold in words, what each branch contributed, how unusual the drift is among real
    pictures, whether the verdict holds when the picture is compressed or resized, and a heat map of where the drift is.

    [bold]Examples[/bold]

      radet explain holiday.jpg --out why/

      radet explain holiday.jpg --suite jpeg,thumbnail:128 --out why/

    [bold]Exit codes[/bold]: 0 all pictures explained; 1 some could not be read; 2 the request cannot work.
    """
    from pipelines.new_folder import local_folder
    from pipelines.s3 import greet
    from pipelines.storage import require_writable
    from pipelines.weights import find_encoders, local_model
    from radet.degradations import CLEAN, conditions
    from radet.detector import Detector
    from radet.explain import explain as run
    from radet.stability import stability
    from radet.thresholds import usual_conditions

    if away := next((image for image in images if "://" in image), None):
        raise ConfigError(f"{away} is no file: radet explain reads files only, so fetch it first (curl -O, aws s3 cp)")
    asked = None if suite is None else [condition for condition in conditions(suite) if condition != CLEAN]
    paths = [Path(image) for image in images]
    if all(path.is_dir() for path in paths):
        raise ConfigError(f"{paths[0]} is a folder: name the pictures in it, as {paths[0]}/*.jpg does")
    console = Console(highlight=False, markup=False)
    folder = local_folder(out)
    require_writable(str(folder))
    greet(model)
    find_encoders()
    detector = Detector.from_pretrained(local_model(model))
    degradations = usual_conditions(detector.config.thresholds) if asked is None else asked
    failed, heat = 0, False
    for image, name in zip(paths, _names(paths, folder), strict=True):
        try:
            found = run(detector, image)
            holds = stability(detector, image, found.score, degradations) if degradations else None
        except (ImageError, FetchError) as error:
            failed += 1
            console.print(f"{image}: {error.code}: {error}", style="red", soft_wrap=True)
            continue
        heat = heat or found.heat is not None
        _write(found, holds, folder / name)
        console.print(f"{image}: {name}.png", style="bold", soft_wrap=True)
        for sentence in found.sentences:
            console.print(f"  {sentence}", soft_wrap=True)
        if holds is not None:
            console.print(f"  {holds.sentence}", soft_wrap=True)
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


def _write(found: "Explanation", holds: "Stability | None", place: Path) -> None:
    """The picture with its heat map beside it as PNG, and all that was found as JSON."""
    from PIL import Image

    side = max(448, found.crop.shape[0])
    sheet = Image.new("RGB", (2 * side, side))
    sheet.paste(Image.fromarray(found.crop).resize((side, side), Image.Resampling.BICUBIC), (0, 0))
    sheet.paste(found.overlay(side=side), (side, 0))
    sheet.save(f"{place}.png")
    told = found.to_dict() | {"stability": None if holds is None else holds.to_dict()}
    Path(f"{place}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _names(images: list[Path], folder: Path) -> list[str]:
    """The files' stems, counted up where two would meet, or what is in `folder`: it may be the pictures themselves."""
    taken = {path.stem for path in folder.iterdir() if path.suffix in {".png", ".json"}}
    names: list[str] = []
    for image in images:
        numbered = (f"{image.stem}-{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([image.stem], numbered) if name not in taken))
        taken.add(names[-1])
    return names
