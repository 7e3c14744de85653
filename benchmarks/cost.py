"""What a score costs, part by part, in milliseconds and multiply-accumulates, and the authors' design rebuilt as a cost
model beside it.

python -m benchmarks.cost --model radet-lite [--model CHECKPOINT ...] [--save cost]

The authors' released code runs seven encoder passes, a perturbation network of 235 M parameters and a ResNet-34 for a
picture; here with random weights and with the same encoder as the model beside it, so that the
ratio is of the designs and not of the encoders. One thread, one picture at a time, median of several runs.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet34

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from pipelines.process import tune
from radet import Detector
from radet.branches import Seen
from radet.detector import log_scalars, to_pixels
from radet.encoders import Look
from radet.onednn import torch_only

_RUNS = 9


class ReferenceProbe(nn.Module):
    """As large and as costly as the authors' UNet: full-resolution convolutions, two linear maps of the embedding to
    512x14x14 and a transformer block between. A model of cost, not of behaviour."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(18, 64, 3, padding=1)
        widths = (64, 64, 128, 256, 512)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, a, 3, stride=2, padding=1), nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
            )
            for a, b in pairwise(widths)
        )
        self.middle = nn.Sequential(nn.Conv2d(512, 512, 3, padding=1), nn.Conv2d(512, 512, 3, padding=1))
        self.embeddings = nn.ModuleList(nn.Linear(dim, 512 * 14 * 14) for _ in range(2))
        self.refine = nn.ModuleList(
            nn.Sequential(nn.Conv2d(512, 512, 3, padding=1), nn.Conv2d(512, 512, 3, padding=1)) for _ in range(2)
        )
        self.cross = nn.MultiheadAttention(512, 8, batch_first=True)
        self.block = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
        pairs = ((1024, 256), (512, 128), (256, 64), (128, 64))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)) for a, b in pairs
        )
        self.leave = nn.Sequential(nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1))

    def forward(self, x_BCHW: Tensor, z_BD: Tensor) -> Tensor:
        h = self.enter(x_BCHW.repeat(1, 6, 1, 1))
        skips = []
        for stage in self.down:
            h = stage(h)
            skips.append(h)
        h = self.middle(h)
        maps = [
            refine(embed(z_BD).view(-1, 512, 14, 14))
            for embed, refine in zip(self.embeddings, self.refine, strict=True)
        ]
        keys = torch.cat([m.flatten(2).mT for m in maps], dim=1)
        tokens = h.flatten(2).mT
        tokens = self.block(tokens + self.cross(tokens, keys, keys, need_weights=False)[0])
        h = tokens.mT.reshape(h.shape)
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            h = stage(nn.functional.interpolate(torch.cat([h, skip], dim=1), scale_factor=2.0))
        return torch.tanh(self.leave(h))


def measure(step: Callable[[], Any]) -> tuple[float, float]:
    """(milliseconds, GMAC) of one call."""
    with torch.inference_mode():
        with torch_only(), FlopCounterMode(display=False) as counter:
            step()
        times = []
        for _ in range(_RUNS):
            begun = time.perf_counter()
            step()
            times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times), counter.get_total_flops() / 2e9


def cost(model: str) -> dict[str, Any]:
    """Costs by part."""
    detector = Detector.from_pretrained(model)
    size = detector.config.crop.size
    crop = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    x = to_pixels(torch.from_numpy(crop))
    with torch.inference_mode():
        look: Look = detector.encoder.look(x, detector.layers)
        parts: dict[str, Callable[[], Any]] = {
            "whole": lambda: detector.evidence(crop),
            "encoder pass": lambda: detector.encoder.look(x, detector.layers),
        }
        if detector.probe.groups:
            parts["probe"] = lambda: detector.probe.views(x, look.z)
        if detector.heads is not None:
            drift = detector.drift(x, look)
            m2 = detector.covariance.mahalanobis(drift.delta) if detector.covariance is not None else None
            seen = Seen(x, look.features, log_scalars(drift, m2), drift.delta.float())
            for name, branch in detector.heads.branches.items():
                parts[name] = partial(branch, seen)
    probe, resnet = ReferenceProbe(detector.encoder.dim).eval(), resnet34(weights=None).eval()

    def reference() -> None:
        for _ in range(7):
            z = detector.encoder.embed(x)
        probe(x, z)
        resnet(x)

    parts["reference design"] = reference
    found = {name: dict(zip(("ms", "gmac"), measure(step), strict=True)) for name, step in parts.items()}
    return {
        "model": model,
        "reference_probe_parameters": sum(p.numel() for p in probe.parameters()),
        "own_parameters": sum(p.numel() for p in detector.parameters())
        - sum(p.numel() for p in detector.encoder.parameters()),
        "parts": found,
        "reference_over_ours_ms": found["reference design"]["ms"] / found["whole"]["ms"],
        "reference_over_ours_gmac": found["reference design"]["gmac"] / found["whole"]["gmac"],
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--model", action="append", required=True, help="as for radet score; may be repeated")
    arguments = parser.parse_args()
    tune()
    results = [cost(model) for model in arguments.model]
    for row in results:
        print(row["model"], f"reference design over ours: {row['reference_over_ours_ms']:.1f}x in ms")
        for name, part in row["parts"].items():
            print(f"  {name:18} {part['ms']:8.2f} ms {part['gmac']:8.3f} GMAC")
    if arguments.save:
        save(arguments.save, results)


if __name__ == "__main__":
    run_main(main)
