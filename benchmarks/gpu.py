"""What one GPU gives: the whole detector on large encoders, against the card's own matrix rate.

python -m benchmarks.gpu [--images FOLDER] [--batch 256] [--save gpu]         (needs neither Ray nor open_clip)

    matrix     the card's bf16 rate on a large matrix product: what every share is of
    scorer     clean and perturbed pass, drifts, learned probe, branches: images/s in bf16, crops already on the card;
               as it is, and with the encoder's blocks under torch.compile
    encoder    one pass alone, likewise
    drift      the floor (rounding alone, alone against in batches) in bf16, compiled too, and fp32, beside the drift of
               noise pictures
    training   images/s of the training step, micro-batches of 64 in a global batch of 256; compiled, too
    files      (--images) read and decode by a process a core, and score: what a node with this card does end to end

Towers: CLIP ViT-L/14 (timm) and DINOv3 ViT-L/16 (transformers), of random weights: rates do not depend on them. Runs on
a CPU too (--device cpu --towers tiny), which says nothing but that the script works.
"""

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from benchmarks.pictures import pick
from benchmarks.towers import SIZE, TOWERS
from pipelines.process import cores
from radet import Detector
from radet.compiled import compiled
from radet.config import ProbeConfig
from radet.crop import CropPolicy
from radet.detector import to_pixels
from radet.fit import refit
from radet.images import Pixels
from radet.recipe import Recipe
from radet.rows import read_row
from radet.selftest import drift_floor
from radet.training import MicroBatch, new_detector, new_optimiser, train_step

_SECONDS = 5.0  # of each measurement
_MATRIX = {"cuda": 8192, "cpu": 1024}


class Bench:
    """One card."""

    def __init__(self, device: str, batch: int, seconds: float) -> None:
        self.device, self.batch, self._seconds = device, batch, seconds
        rng = np.random.default_rng(0)
        self.crops = torch.from_numpy(rng.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)).to(device)

    def rate(self, step: Callable[[], Any], items: int) -> float:
        """Items a second, after two warm calls."""
        for _ in range(2):
            step()
        self._wait()
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() - begun < self._seconds:
            step()
            self._wait()
            calls += 1
        return items * calls / (time.perf_counter() - begun)

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def matrix(self) -> float:
        """TFLOP/s of a square bf16 product."""
        side = _MATRIX["cuda" if self.device != "cpu" else "cpu"]
        a, b = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return self.rate(lambda: a @ b, 1) * 2 * side**3 / 1e12

    @torch.inference_mode()
    def scorer(self, detector: Detector, matrix: float) -> dict[str, float]:
        x_BCHW = to_pixels(self.crops)
        with FlopCounterMode(display=False) as counter:
            detector(x_BCHW[:1])
        flop = counter.get_total_flops()
        found = {
            f"images_per_s_{n}": self.rate(partial(detector, x_BCHW[:n]), n)
            for n in sorted({1, min(64, self.batch), self.batch})
        }
        begun = time.perf_counter()
        with compiled(detector.encoder, SIZE):
            found["compile_s"] = time.perf_counter() - begun
            found["compiled_images_per_s"] = self.rate(partial(detector, x_BCHW), self.batch)
        return found | {
            "gflop": flop / 1e9,
            "share_of_matrix": found[f"images_per_s_{self.batch}"] * flop / 1e12 / matrix,
            "compiled_share_of_matrix": found["compiled_images_per_s"] * flop / 1e12 / matrix,
        }

    @torch.inference_mode()
    def encoder(self, detector: Detector) -> dict[str, float]:
        step = partial(detector.encoder.embed, to_pixels(self.crops))
        found = {"images_per_s": self.rate(step, self.batch)}
        with compiled(detector.encoder, SIZE):
            return found | {"compiled_images_per_s": self.rate(step, self.batch)}

    @torch.inference_mode()
    def drift(self, detector: Detector) -> dict[str, float]:
        found, sizes = {}, (7, 64, self.batch)
        for precision in ("bf16", "fp32"):
            detector.encoder.precision = precision
            found[f"floor_{precision}"] = drift_floor(detector, sizes)
            evidence = detector.evidence(self.crops[:64])
            assert evidence.drift_cosine is not None
            found[f"noise_{precision}"] = float(np.median(evidence.drift_cosine))
        detector.encoder.precision = "bf16"
        with compiled(detector.encoder, SIZE):
            return found | {"floor_compiled_bf16": drift_floor(detector, sizes)}

    def training(self, detector: Detector, recipe: Recipe) -> float:
        optimiser = new_optimiser(detector, recipe)
        label = torch.arange(recipe.micro_batch) % 2
        crops = self.crops[torch.arange(recipe.micro_batch, device=self.device) % self.batch]
        batches = [
            MicroBatch(number, crops, label.float(), np.arange(recipe.micro_batch))
            for number in range(recipe.global_batch // recipe.micro_batch)
        ]
        return self.rate(
            lambda: train_step(detector, optimiser, batches, recipe, step=1, steps=10), recipe.global_batch
        )

    def files(self, detector: Detector, paths: list[Path]) -> float:
        """Images a second from disk to evidence; decoding is ahead of the card."""
        read = partial(_crop, policy=detector.config.crop)
        with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:  # threads: 462 a second by sixteen
            list(pool.map(read, paths[: 4 * cores()]))  # until all have started
            begun, scored = time.perf_counter(), 0
            crops = pool.map(read, paths, chunksize=8)
            for stack in _stacked((crop for crop in crops if crop is not None), self.batch):
                detector.evidence(stack)
                scored += len(stack)
            self._wait()
            return scored / (time.perf_counter() - begun)


def _crop(path: Path, policy: CropPolicy) -> Pixels | None:
    return read_row(path, 0, policy).crop


def _stacked(crops: Iterator[Any], size: int) -> Iterator[Any]:
    waiting = []
    for crop in crops:
        waiting.append(crop)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=Path, metavar="IMAGES", help="a folder of pictures, for `files`")
    parser.add_argument("--count", type=int, default=4096, help="files, taken round and round")
    parser.add_argument("--batch", type=int, default=256, help="pictures at once")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of each measurement")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument(
        "--towers", nargs="+", choices=list(TOWERS), default=["clip-l14", "dinov3-l16"], help="the encoders"
    )
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu --towers tiny only tries the script")
    found = pick(asked.images, asked.count) if asked.images else []
    bench = Bench(asked.device, asked.batch, asked.seconds)
    results: list[dict[str, Any]] = []
    for name in asked.towers:
        matrix = bench.matrix()
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe(
                name=name,
                encoder=TOWERS[name].make(Path(folder)),
                layers=TOWERS[name].layers,
                precision="bf16",
                train_precision="bf16",
                probe=ProbeConfig(kind="drp"),
                micro_batch=min(64, asked.batch),
                global_batch=asked.batch,
            )
            detector = new_detector(recipe, device=asked.device)
            refit(detector, iter(bench.crops[:64].cpu().numpy()), source="noise")
            row: dict[str, Any] = {"tower": name, "batch": asked.batch, "matrix_tflops": matrix}
            row["scorer"] = bench.scorer(detector, matrix)
            row["drift"] = bench.drift(detector)
            if asked.images:
                files = list(itertools.islice(itertools.cycle(found), asked.count))
                row["files_images_per_s"] = bench.files(detector, files)
            row["training_images_per_s"] = bench.training(detector, recipe)
            with compiled(detector.encoder, SIZE):
                row["compiled_training_images_per_s"] = bench.training(detector, recipe)
            row["encoder"] = bench.encoder(detector)
        results.append(row)
        print(json.dumps(row, indent=1), flush=True)
        if asked.save:  # after each tower: a run that is cut short has something to show
            save(asked.save, results)


if __name__ == "__main__":
    run_main(main)
