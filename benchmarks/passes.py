"""One encoder pass on this machine's CPU, milliseconds a picture: what precision, batches, oneDNN
(radet.onednn) and torch.compile are worth.

python -m benchmarks.passes [--towers lite clip-b16 clip-l14 dinov3-l16] [--batches 1 8 32 256] [--save passes]

One thread, as in every process of a run here (a core each); the best of three calls, since a shared machine only ever
adds. A batch that would take longer than --patience is left out. `lite` and `clip-b16` are the bundled detectors'
encoders; the others have random weights, which rates do not depend on. With each goes how far its embedding lies from
that of fp32 (cosine distance): what would be in a drift as rounding.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from benchmarks.towers import SIZE, TOWERS
from pipelines.process import tune
from pipelines.weights import find_encoders
from radet import Detector
from radet.config import ProbeConfig
from radet.encoders import FrozenEncoder
from radet.onednn import torch_only
from radet.recipe import Recipe
from radet.training import new_detector

BUNDLED = {"lite": "radet-lite", "clip-b16": "radet-clip-b16"}
_CALLS = 3


def encoder(name: str, folder: Path) -> FrozenEncoder:
    if name in BUNDLED:
        return Detector.from_pretrained(BUNDLED[name]).encoder
    tower = TOWERS[name]
    plain = {"probe": ProbeConfig(kind="none"), "branches": ("semantic",)}
    recipe = Recipe(name=name, encoder=tower.make(folder), layers=tower.layers, **plain)  # type: ignore[arg-type]
    return new_detector(recipe).encoder


def best(call: Callable[[], Any], patience: float) -> float | None:
    """Seconds of the fastest call; None where the first one already takes too long."""
    found: list[float] = []
    while len(found) < _CALLS:
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
        if sum(found) > patience:
            return min(found) if len(found) > 1 else None
    return min(found)


def ways(one: FrozenEncoder) -> Iterator[str]:
    """The encoder as it is to be, one way after the other; as it was in the end."""
    tower = one.tower
    for precision in ("fp32", "bf16"):
        one.precision = precision
        yield precision
        with torch_only():
            yield f"{precision} without oneDNN"
        one.tower = torch.compile(tower)  # type: ignore[assignment]  # a callable that behaves as one
        yield f"{precision} compiled"
        one.tower = tower
    one.precision = "fp32"


@torch.inference_mode()
def measure(one: FrozenEncoder, batches: list[int], patience: float) -> dict[str, Any]:
    x_BCHW = torch.rand((max(batches), 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    with torch_only(), FlopCounterMode(display=False) as counter:
        reference = one.embed(x_BCHW[:1])
    found: dict[str, Any] = {"gmac": counter.get_total_flops() / 2e9}
    for way in ways(one):
        ms: dict[int, float] = {}
        z_BD: Tensor = one.embed(x_BCHW[:1])  # compiles, too
        for count in batches:
            seen = x_BCHW[:count]
            if ms and count * ms[max(ms)] / 1000 > patience:
                break
            if "compiled" in way and count > 1:
                one.embed(seen)  # compiles for this shape
            seconds = best(lambda seen=seen: one.embed(seen), patience)  # type: ignore[misc]
            if seconds is None:
                break
            ms[count] = round(1000 * seconds / count, 1)
        distance = 1 - torch.nn.functional.cosine_similarity(z_BD.double(), reference.double()).item()
        found[way] = {"ms": ms, "distance_from_fp32": distance}
        print(f"  {way:22} {ms} {distance:.1e}", flush=True)
    return found


def main() -> None:
    parser = new_parser(__doc__)
    every = [*BUNDLED, "clip-l14", "dinov3-l16"]
    parser.add_argument("--towers", nargs="+", choices=[*BUNDLED, *TOWERS], default=every, help="the encoders")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 256], help="pictures at once")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds for one call")
    asked = parser.parse_args()
    tune()
    find_encoders()
    results = []
    for name in asked.towers:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results.append({"tower": name, **measure(encoder(name, Path(folder)), asked.batches, asked.patience)})
    print(json.dumps(results))
    if asked.save:
        save(asked.save, results)


if __name__ == "__main__":
    run_main(main)
