"""Drift: how far the embedding of a picture moves when its pixels are perturbed (METHOD: s, d, Delta, m2).

B batch, D embedding width, V views (clean first), L layers, K leading eigenvectors, N pictures
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radet.encoders import Look
from radet.errors import ConfigError
from radet.probes import Group

_LEADING = 64
_TINY = 1e-12  # floor of a drift before its logarithm: a picture whose embedding does not move at all


class Drift(NamedTuple):
    """Means over the pairs of the group that drifts least by cosine."""

    cosine: Tensor  # [B], in [0, 2]
    l2: Tensor  # [B], >= 0
    delta: Tensor  # [B, D]
    layers: Tensor  # cosine drift of each layer's token, [B, L]


def cosine_drift(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """u = 1 - cos(a, b), in [0, 2], as half the squared distance of the unit vectors.

    1 - a.b cancels: at u = 1e-6 it is right to one digit in fp32. The distance of two near vectors does not.
    """
    a_BD, b_BD = nn.functional.normalize(a_BD, dim=-1), nn.functional.normalize(b_BD, dim=-1)
    return (a_BD - b_BD).square().sum(-1) / 2


def measure_drift(looks: Sequence[Look], groups: tuple[Group, ...]) -> Drift:
    """The drift between passes (the clean one first), `groups` as in radet.probes. Of one picture at a time: never
    mixes the batch. Computed in fp64: a drift is a small difference of two large things."""
    z_VBD = [look.z.double() for look in looks]
    found: list[Drift] = []
    for group in groups:
        pairs = [(z_VBD[i], z_VBD[j]) for i, j in group]
        delta_PBD = torch.stack([a_BD - b_BD for a_BD, b_BD in pairs])
        cosine_B = torch.stack([cosine_drift(a_BD, b_BD) for a_BD, b_BD in pairs]).mean(0)
        layers_PBL = torch.stack([_layer_drifts(looks[i], looks[j]) for i, j in group])
        found.append(Drift(cosine_B, delta_PBD.norm(dim=-1).mean(0), delta_PBD.mean(0), layers_PBL.mean(0)))
    least_1B = torch.stack([drift.cosine for drift in found]).argmin(0, keepdim=True)
    cosine, l2, delta, layers = (torch.stack(column) for column in zip(*found, strict=True))

    def pick(column: Tensor) -> Tensor:
        index = least_1B.reshape(1, -1, *[1] * (column.ndim - 2)).expand(1, *column.shape[1:])
        return column.gather(0, index)[0]

    return Drift(pick(cosine), pick(l2), pick(delta), pick(layers))


def log_drift(drift: Tensor) -> Tensor:
    """ln of a drift, floored."""
    return drift.clamp_min(_TINY).log()


def _layer_drifts(a: Look, b: Look) -> Tensor:
    drifts = [cosine_drift(p_BD.double(), q_BD.double()) for p_BD, q_BD in zip(a.tokens, b.tokens, strict=True)]
    return torch.stack(drifts, dim=1) if drifts else a.z.new_empty((len(a.z), 0), dtype=torch.float64)


class FrozenGaussian(nn.Module):
    """Mean and covariance of the drift of REAL pictures, and the distance from them.

    m2 = (Delta - mu)^T (Sigma + lambda I)^-1 (Delta - mu) / D: about 1 for real pictures whatever the encoder's width,
    once the fit has seen more pictures than D. (From fewer, the pictures fitted on look too near.)

    Sigma + lambda I is the Ledoit-Wolf estimate, kept as its K leading eigenpairs and ONE value, their mean, for all
    D - K others (probabilistic PCA). That is exact in the leading directions and treats the rest as isotropic; it makes
    1280 x 1280 numbers 64 x 1280.
    """

    NAMES = ("mean_D", "vectors_DK", "values_K", "tail")

    def __init__(self, mean_D: Tensor, vectors_DK: Tensor, values_K: Tensor, tail: Tensor) -> None:
        super().__init__()
        self.mean_D: Tensor
        self.vectors_DK: Tensor
        self.values_K: Tensor
        self.tail: Tensor
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("vectors_DK", vectors_DK)
        self.register_buffer("values_K", values_K)
        self.register_buffer("tail", tail)

    @classmethod
    def fit(cls, delta_ND: NDArray[np.float64], leading: int = _LEADING) -> "FrozenGaussian":
        """Fit on the drifts of N >= 3 real pictures: of two the estimate is singular. `leading` eigenpairs are kept, at
        most D - 1. Raises ConfigError where all drift alike."""
        values_D, vectors_DD = np.linalg.eigh(ledoit_wolf(delta_ND))
        keep = min(leading, len(values_D) - 1)
        vectors_DK, values_K = vectors_DD[:, ::-1][:, :keep], values_D[::-1][:keep]
        # An eigenvector's sign is the linear algebra library's whim; fixed, the same data give the same file.
        vectors_DK = vectors_DK * np.sign(vectors_DK[np.abs(vectors_DK).argmax(0), np.arange(keep)])
        tail = values_D[: len(values_D) - keep].mean()
        arrays = (delta_ND.mean(0), vectors_DK, values_K, tail)
        found = cls(*(torch.from_numpy(np.array(array, dtype=np.float32, order="C")) for array in arrays))
        if not found.positive:
            raise ConfigError("the real pictures all drift alike, as copies of one do: give different ones")
        return found

    @property
    def positive(self) -> bool:
        """Whether it is a covariance at all."""
        return bool((self.values_K > 0).all() and self.tail > 0)

    def mahalanobis(self, delta_BD: Tensor) -> Tensor:
        """m2 of each drift, >= 0, unit-free, in the dtype of `delta_BD`."""
        dtype = delta_BD.dtype
        y_BD = delta_BD - self.mean_D.to(dtype)
        c_BK = y_BD @ self.vectors_DK.to(dtype)
        rest_B = (y_BD.square().sum(-1) - c_BK.square().sum(-1)).clamp_min(0)
        m2_B = (c_BK.square() / self.values_K.to(dtype)).sum(-1) + rest_B / self.tail.to(dtype)
        return m2_B / y_BD.shape[-1]


def ledoit_wolf(x_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of N samples shrunk towards its mean variance: (1-r) S + r tr(S)/D I, with the optimal r.

    Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", JMVA 88 (2004), lemma 3.3.
    Positive definite even where N < D, unless all samples are equal.
    """
    n, d = x_ND.shape
    x_ND = x_ND - x_ND.mean(0)
    sample_DD = x_ND.T @ x_ND / n
    target = np.trace(sample_DD) / d
    distance = np.sum((sample_DD - target * np.eye(d)) ** 2)
    noise = (np.sum(np.sum(x_ND**2, axis=1) ** 2) / n - np.sum(sample_DD**2)) / n
    r = 1.0 if distance == 0 else min(1.0, noise / distance)
    shrunk: NDArray[np.float64] = (1 - r) * sample_DD + r * target * np.eye(d)
    return shrunk
