"""The numerical side of the paper's Theorem 4.3 (arXiv 2603.01544; METHOD section 6): how much more the features of
generated pictures shift than those of real ones, bounded from below by

    gap >= (eps^2 / n) Delta - B sqrt(M / 2)        up to O(eps^4)

What METHOD does not settle is settled here, and is ours:

    f      the encoder's embedding at unit length, z / |z|. Then |f(x') - f(x)|^2 is twice the cosine drift, and lies in
           [0, 4] whatever the encoder
    shift  of a picture: E |f(x + delta) - f(x)|^2, delta uniform on the sphere of radius eps in R^n, without clipping:
           the theorem's pixels have no edges
    n      numbers in a picture, 3 H W. eps = r sqrt(n) for a root mean square of r a pixel, so eps^2 / n = r^2
    gap    mean shift of generated minus mean shift of real pictures
    Delta  mean |J_f|_F^2 of generated minus that of real pictures, the energy of the Jacobian df/dx. With it, r^2 Delta
           alone is the gap but for O(eps^4), as E (delta^T A delta) = (eps^2 / n) tr A
    M      half of the symmetric divergence J of the embeddings: Pinsker's inequality |E_P g - E_Q g| <= B sqrt(KL / 2),
           g in [0, B], holds for either direction of KL, and the smaller one is at most J / 2. As measured, along a few
           axes, M is smaller than the divergence of the pictures that the theorem is about: it flatters the bound
    B      the range of the shift. 4 is certain; the largest shift that was seen is smaller and certain of nothing

The penalty does not fall with eps: for small eps the bound is about -B sqrt(M / 2), which says nothing. It says
something (`informative`) only where it is above 0, and `largest_range` is what B would have to be under.

B batch, C=3 channels, H W pixels, D embedding width, N pictures
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from radet.encoders import FrozenEncoder
from radet.probes import seeded_noise

Floats = NDArray[np.float64]
Embed = Callable[[Tensor], Tensor]

#: Largest |f(x') - f(x)|^2 of unit vectors.
RANGE = 4.0

_DRAWS = 500


class Gap(NamedTuple):
    """Mean of generated minus mean of real pictures, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftBound:
    """The bound at one strength beside what was measured; symbols as above.

    `rms`            r, of a pixel value in [0, 1]
    `first_order`    r^2 Delta: the gap that the Jacobians predict
    `penalty`        B sqrt(M / 2) with B = 4
    `penalty_seen`   with the largest shift seen at this strength for B
    """

    rms: float
    energy_gap: Gap  # Delta
    first_order: float
    divergence: float  # M, nats
    penalty: float
    penalty_seen: float
    measured: Gap

    @property
    def bound(self) -> float:
        """The least gap that the theorem promises, with the certain B."""
        return self.first_order - self.penalty

    @property
    def bound_seen(self) -> float:
        """The same with the largest shift that was seen for B: certain of nothing."""
        return self.first_order - self.penalty_seen

    @property
    def informative(self) -> bool:
        """Whether the bound, with the certain B, promises that generated pictures shift more."""
        return self.bound > 0

    @property
    def largest_range(self) -> float:
        """The B below which the bound is above 0; 0 where no B does, inf where M is 0."""
        if self.first_order <= 0:
            return 0.0
        return self.first_order / math.sqrt(self.divergence / 2) if self.divergence > 0 else math.inf


def unit_embedding(encoder: FrozenEncoder) -> Embed:
    """f: pixels x_BCHW -> z / |z|, [B, D]."""

    def embed(x_BCHW: Tensor) -> Tensor:
        return nn.functional.normalize(encoder.embed(x_BCHW), dim=-1)

    return embed


def jacobian_energy(embed: Embed, x_BCHW: Tensor, *, probes: int, seed: int) -> Tensor:
    """|J_f(x)|_F^2 of each picture, [B], fp64, by Hutchinson's estimate E |J^T v|^2 over random signs v in R^D.

    Unbiased; its variance is 2 / probes times the sum of squares of J J^T off the diagonal (Hutchinson 1990; Avron &
    Toledo, J. ACM 58 (2011)). One pass forwards, `probes` backwards; no picture may touch another in `embed`.
    """
    signs = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().clone().requires_grad_()
        z_BD = embed(x_BCHW)
    energy_B = x_BCHW.new_zeros(len(x_BCHW), dtype=torch.float64)
    for number in range(probes):
        v_BD = (2 * torch.randint(0, 2, tuple(z_BD.shape), generator=signs) - 1).to(z_BD)
        (pulled_BCHW,) = torch.autograd.grad(z_BD, x_BCHW, v_BD, retain_graph=number + 1 < probes)
        energy_B += pulled_BCHW.double().square().sum((1, 2, 3))
    return energy_B / probes


@torch.inference_mode()
def shifts(embed: Embed, x_BCHW: Tensor, strengths: Sequence[float], *, draws: int, seed: int) -> Tensor:
    """Shift of each picture at each strength r, the mean over `draws` directions, [B, len(strengths)], fp64.

    The directions are the same for every picture and every strength.
    """
    f_BD = embed(x_BCHW).double()
    shape = tuple(x_BCHW.shape[1:])
    noise = torch.from_numpy(seeded_noise(seed, (draws, *shape))).to(x_BCHW)
    noise /= noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    columns = [
        torch.stack([(embed(x_BCHW + r * delta).double() - f_BD).square().sum(-1) for delta in noise]).mean(0)
        for r in strengths
    ]
    return torch.stack(columns, dim=1)


def bound_shift(
    rms: float, energy_N: ArrayLike, shift_N: ArrayLike, generated_N: NDArray[np.bool_], divergence: float, *, seed: int
) -> ShiftBound:
    """The bound at strength `rms` from the energies and shifts of N labelled pictures.

    `divergence` is the symmetric J, in nats; an estimate below 0 counts as 0.
    """
    shift = np.asarray(shift_N, np.float64)
    energy_gap, half = _gap(energy_N, generated_N, seed), max(0.0, divergence) / 2
    root = math.sqrt(half / 2)
    return ShiftBound(
        rms=rms,
        energy_gap=energy_gap,
        first_order=rms**2 * energy_gap.value,
        divergence=half,
        penalty=RANGE * root,
        penalty_seen=float(shift.max()) * root,
        measured=_gap(shift, generated_N, seed),
    )


def _gap(value_N: ArrayLike, generated_N: NDArray[np.bool_], seed: int) -> Gap:
    value, rng = np.asarray(value_N, np.float64), np.random.default_rng(seed)
    drawn_K = np.zeros(_DRAWS)
    for sign, chosen_N in ((1, generated_N), (-1, ~generated_N)):
        part = value[chosen_N]
        counts_KN = rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=_DRAWS)
        drawn_K += sign * (counts_KN @ part) / len(part)
    low, high = np.quantile(drawn_K, (0.025, 0.975))
    return Gap(float(value[generated_N].mean() - value[~generated_N].mean()), float(low), float(high))
