"""`radet models`: which detectors there are, whether one computes right on this machine, and how to make one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from jobs.options import Device, ModelArgument, NewCheckpoint
from radet.config import (
    DetectorConfig,
    EncoderConfig,
    Family,
    FixedProbe,
    Precision,
    ProbeConfig,
    bundled,
    model_id,
    resolve,
)
from radet.crop import CropPolicy
from radet.errors import ConfigError

models = typer.Typer(no_args_is_help=True, help="List, check and make detectors.")
_console = Console(highlight=False, markup=False)

_MEANS_AND_STDS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@models.command("list")
def list_models() -> None:
    """List the detectors that ship with radet."""
    for name in bundled():
        config = DetectorConfig.read(resolve(name))
        told = Text.assemble((name, "bold"), f" {model_id(resolve(name))}  {config.description}")
        _console.print(told, soft_wrap=True)


@models.command()
def selftest(
    model: ModelArgument = "radet-lite",
    precision: Annotated[Precision | None, typer.Option(help="Default: the checkpoint's own.")] = None,
    device: Device = "cpu",
) -> None:
    """Check a detector on this machine: its golden scores, and the drift floor of its precision.

    The drift floor is how far an image "drifts" though nothing was changed, by rounding alone. A precision whose floor
    is over 1 % of the median drift of real images is refused: exit code 2.
    """
    from pipelines.s3 import greet
    from pipelines.weights import find_encoders, local_model
    from radet.detector import Detector
    from radet.selftest import MAX_FLOOR
    from radet.selftest import selftest as check

    greet(model)
    find_encoders()
    result = check(Detector.from_pretrained(local_model(model), device=device, precision=precision))
    _console.print(f"{result.model_id} in {result.precision} on {result.device}: passed")
    _console.print(f"golden error  {result.golden_error:.1e}")
    _console.print(
        f"drift floor   {result.floor:.1e}, {result.floor_share:.3%} of the median real drift (limit {MAX_FLOOR:.0%})"
    )


@models.command()
def convert(
    model: ModelArgument,
    precision: Annotated[Precision, typer.Option(help="Of the encoder's arithmetic.")],
    out: NewCheckpoint,
) -> None:
    """Write a detector again in another precision: a checkpoint of its own, with its own id, that every command takes.

    radet-clip-b16 in bf16 is 5.5 times as fast on an H200, and 1.7 times on an AMD EPYC with AVX-512. Its scores are
    close, not the same: on the H200 the logit moved by 0.02 in the median and 0.16 at most, 1 % of the verdicts
    changed, AUROC and the rate of false positives did not; and bf16 rounds differently from one kind of processor to
    another. `radet models selftest` says whether rounding alone drifts too far for it, `radet calibrate` fits
    thresholds of its own.

    [bold]Example[/bold]

      radet models convert radet-clip-b16 --precision bf16 --out clip-bf16
    """
    from pipelines.new_folder import new_checkpoint, whole
    from pipelines.s3 import greet
    from pipelines.weights import find_encoders, local_model
    from radet.detector import Detector

    greet(model)
    find_encoders()
    folder = resolve(local_model(model))
    was = DetectorConfig.read(folder)
    target = new_checkpoint(out)
    detector = Detector.from_pretrained(folder, precision=precision)
    detector.config = replace(detector.config, name=target.resolve().name)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {was.name}\n"
    converted = f"> {was.name} (`{model_id(folder)}`) in {precision}: figures below were measured in {was.precision}.\n"
    with whole(target) as made:
        detector.save_pretrained(made)
        if (golden := folder / "golden.json").is_file():  # fp32 values, which every precision is held against
            shutil.copyfile(golden, made / golden.name)
        (made / "README.md").write_text(f"{converted}\n{text}", encoding="utf-8")
    _console.print(f"{out}: {detector.model_id}, {precision}", soft_wrap=True)


@models.command()
def fit(
    out: NewCheckpoint,
    real: Annotated[Path, typer.Option(help="A folder of real photographs, the more kinds of cameras the better.")],
    family: Annotated[Family, typer.Option(help="The library that builds the encoder.")],
    encoder: Annotated[str, typer.Option(help="The encoder's name in that library, e.g. ViT-B-16-quickgelu.")],
    weights: Annotated[str, typer.Option(help="Where its weights are: hub:TAG, package:NAME or a file.")],
    probe: Annotated[
        FixedProbe,
        typer.Option(
            help="How pictures are perturbed: gaussian (as RIGID), blur (contrastive blur), minder or haar (as WaRPAD)."
        ),
    ] = "gaussian",
    sigma: Annotated[
        float, typer.Option(help="Noise of the gaussian and minder probes, pixels being in [0, 1].")
    ] = 0.05,
    draws: Annotated[
        int, typer.Option(min=1, max=256, help="How many patterns of that noise: their drifts are averaged.")
    ] = 1,
    precision: Annotated[Precision, typer.Option(help="Of the encoder's arithmetic.")] = "fp32",
    normalisation: Annotated[
        Literal["clip", "imagenet", "half"], typer.Option(help="Mean and deviation of pixels that the encoder expects.")
    ] = "clip",
    limit: Annotated[int | None, typer.Option(min=3, help="Use so many photographs only.")] = None,
) -> None:
    """Make a training-free detector: a frozen encoder, a fixed probe, the drift of real photographs as reference.

    Its scores say how unusual a picture's drift is among those photographs. No generated picture is needed, and
    there is no verdict until `radet calibrate` has fitted one.

    [bold]Example[/bold]

      radet models fit --real photos/ --family open_clip --encoder ViT-B-16-quickgelu --weights hub:openai --out rigid
    """
    from pipelines.items import has_image_suffix
    from pipelines.new_folder import new_checkpoint, whole
    from pipelines.weights import find_encoders
    from radet.detector import Detector
    from radet.encoders import describe
    from radet.fit import fit_reference, read_crops
    from radet.selftest import write_golden

    mean, std = _MEANS_AND_STDS[normalisation]
    paths = sorted(path for path in real.rglob("*") if has_image_suffix(path.name))[:limit]
    if not paths:
        raise ConfigError(f"no photographs under {real}")
    target = new_checkpoint(out)
    if not weights.startswith(("hub:", "package:")):
        weights = str(Path(weights).absolute())
    find_encoders()
    found: EncoderConfig = describe(family, encoder, weights, mean=mean, std=std)
    console = Console(stderr=True, highlight=False, markup=False)
    detector = fit_reference(
        found,
        ProbeConfig(kind=probe, sigma=sigma, draws=draws),
        read_crops(track(paths, "fitting", console=console, disable=not console.is_terminal), CropPolicy()),
        name=target.resolve().name,
        description=f"Training-free: {probe} probe on {encoder}",
        source=f"{len(paths)} photographs of {real.name}",
        crop=CropPolicy(),
        precision=precision,
    )
    with whole(target) as made:
        detector.save_pretrained(made)
        write_golden(Detector.from_pretrained(made, precision="fp32"), made)
    _console.print(f"{out}: {detector.model_id}, reference of {len(paths):,} photographs", soft_wrap=True)
