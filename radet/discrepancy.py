"""Drift: how far the embedding of a picture moves when its pixels are perturbed (METHOD: s, d, Delta, m2).

B batch, D embedding width, V views (clean first), K leading eigenvectors, N pictures
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radet.probes import Group

_LEADING = 64


class Drift(NamedTuple):
    """Means over the pairs of the group that drifts least by cosine."""

    cosine: Tensor  # [B], in [0, 2]
    l2: Tensor  # [B], >= 0
    delta: Tensor  # [B, D]


def cosine_drift(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """u = 1 - cos(a, b), in [0, 2], as half the squared distance of the unit vectors.

    1 - a.b cancels: at u = 1e-6 it is right to one digit in fp32. The distance of two near vectors does not.
    """
    a_BD, b_BD = nn.functional.normalize(a_BD, dim=-1), nn.functional.normalize(b_BD, dim=-1)
    return (a_BD - b_BD).square().sum(-1) / 2


def measure_drift(z_VBD: list[Tensor], groups: tuple[Group, ...]) -> Drift:
    """The drift between embeddings, `groups` as in radet.probes. Of one picture at a time: never mixes the batch."""
    cosine_GB, l2_GB, delta_GBD = [], [], []
    for group in groups:
        pairs = [(z_VBD[i], z_VBD[j]) for i, j in group]
        delta_PBD = torch.stack([a_BD - b_BD for a_BD, b_BD in pairs])
        cosine_GB.append(torch.stack([cosine_drift(a_BD, b_BD) for a_BD, b_BD in pairs]).mean(0))
        l2_GB.append(delta_PBD.norm(dim=-1).mean(0))
        delta_GBD.append(delta_PBD.mean(0))
    cosine = torch.stack(cosine_GB)
    least_1B = cosine.argmin(0, keepdim=True)
    delta = torch.stack(delta_GBD)
    return Drift(
        cosine.gather(0, least_1B)[0],
        torch.stack(l2_GB).gather(0, least_1B)[0],
        delta.gather(0, least_1B[..., None].expand(-1, -1, delta.shape[-1]))[0],
    )


class FrozenGaussian(nn.Module):
    """Mean and covariance of the drift of REAL pictures, and the distance from them.

    m2 = (Delta - mu)^T (Sigma + lambda I)^-1 (Delta - mu) / D: about 1 for real pictures whatever the encoder's width,
    once the fit has seen more pictures than D. (From fewer, the pictures fitted on look too near.)

    Sigma + lambda I is the Ledoit-Wolf estimate, kept as its K leading eigenpairs and ONE value, their mean, for all
    D - K others (probabilistic PCA). That is exact in the leading directions and treats the rest as isotropic; it makes
    1280 x 1280 numbers 64 x 1280.
    """

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
        """Fit on the drifts of N >= 2 real pictures. `leading` eigenpairs are kept, at most D - 1."""
        values_D, vectors_DD = np.linalg.eigh(ledoit_wolf(delta_ND))
        keep = min(leading, len(values_D) - 1)
        vectors_DK, values_K = vectors_DD[:, ::-1][:, :keep], values_D[::-1][:keep]
        # An eigenvector's sign is the linear algebra library's whim; fixed, the same data give the same file.
        vectors_DK = vectors_DK * np.sign(vectors_DK[np.abs(vectors_DK).argmax(0), np.arange(keep)])
        tail = values_D[: len(values_D) - keep].mean()
        arrays = (delta_ND.mean(0), vectors_DK, values_K, tail)
        return cls(*(torch.from_numpy(np.array(array, dtype=np.float32, order="C")) for array in arrays))

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
