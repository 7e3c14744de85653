"""Which generator made a picture: a softmax over families, linear in what the encoder's clean pass saw.

It is asked beside the verdict and changes nothing of it. A picture of a family that training has not had must not be
given to one that it had: where the energy ln sum exp(logits) is low, the answer is "unknown" (Liu et al., "Energy-based
Out-of-distribution Detection", NeurIPS 2020).

N training pictures, B batch, D features, K families
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radet.config import UNKNOWN, AttributionConfig
from radet.linear_probe import fit_softmax_probe
from radet.standardise import Standardise
from radet.tensors import Reduce

_HELD_OUT = 5  # one training picture in five is kept apart
_LOST = 0.1  # share of those that may be called unknown


class Attribution(nn.Module):
    """Logits of K families; fitted once, before the first step, and left as it is."""

    def __init__(self, features: int, families: int) -> None:
        super().__init__()
        self.standard = Standardise(features)
        self.linear = nn.Linear(features, families).requires_grad_(False)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features_BD: Tensor) -> Tensor:
        logit_BK: Tensor = self.linear(self.standard(features_BD))
        return logit_BK


class Sample(NamedTuple):
    """Generated training pictures of this rank."""

    x: Tensor  # features of the clean pass, standardised, [N, D]
    pictures: NDArray[np.int64]  # positions in the training listing, [N]
    families: Tensor  # [N]


def families_of(generated: NDArray[np.bool_], sources: list[str]) -> tuple[str, ...]:
    """The families of a training listing: the sources of its generated pictures, in alphabetical order."""
    return tuple(sorted({source for source, made in zip(sources, generated, strict=True) if made}))


def fit_attribution(
    head: Attribution,
    families: tuple[str, ...],
    sample: Sample,
    *,
    listed: int,
    penalty: float,
    reduce: Reduce = lambda _: None,
) -> AttributionConfig:
    """Fit the head on four pictures in five, and set the least energy by the fifth: nine in ten of those stay known.

    `listed` is the length of the training listing. A picture is held out in all of its views, and counts once. Every
    rank calls this, if need be with N = 0, and ends with the same head and config.
    """
    x_ND = sample.x
    held_N = torch.from_numpy(sample.pictures % _HELD_OUT == 0).to(x_ND.device)
    fit_softmax_probe(head.linear, x_ND[~held_N], sample.families[~held_N], penalty=penalty, reduce=reduce)
    logit_NK = head.linear(x_ND[held_N]).double()
    right_N = (logit_NK.argmax(1) == sample.families[held_N]).double()
    rows = torch.stack([torch.ones_like(right_N), right_N, logit_NK.logsumexp(1)])
    sums = torch.zeros(len(rows), listed, dtype=torch.float64, device=x_ND.device)
    sums.index_add_(1, torch.from_numpy(sample.pictures).to(x_ND.device)[held_N], rows)
    reduce(sums)
    count, right, energy = sums[:, sums[0] > 0].cpu().numpy()
    if not len(count):
        return AttributionConfig(families=families)
    energy = energy / count
    least = float(np.quantile(energy, _LOST, method="lower"))
    return AttributionConfig(
        families=families,
        least_energy=least,
        held_out=len(count),
        accuracy=float((right / count).mean()),
        kept=float((energy >= least).mean()),
    )


def name_families(logit_BK: NDArray[np.float64], config: AttributionConfig) -> list[str]:
    """The family of each picture, or UNKNOWN."""
    energy_B = np.logaddexp.reduce(logit_BK, axis=1)
    best_B = logit_BK.argmax(axis=1)
    return [
        config.families[best] if energy >= config.least_energy else UNKNOWN
        for best, energy in zip(best_B, energy_B, strict=True)
    ]
