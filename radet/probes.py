"""Probes: perturbed copies of the pixels, and which embeddings are compared. Each has

    groups               a picture's drift is the mean over the pairs of a group, and the smallest of the groups'
                         drifts; no groups: no drift
    views(x_BCHW, z_BD)  pixels in [0, 1] and their embeddings -> perturbed copies x'_BCHW, each in [0, 1]

B batch, C=3 channels, H W pixels, D embedding width, K noise patterns
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radet.config import ProbeConfig
from radet.tensors import steady_arithmetic
from radet.unet import LightUNet

#: Pairs of embeddings, by number: 0 is the clean picture, i > 0 the i-th view.
Group = tuple[tuple[int, int], ...]


class NoProbe(nn.Module):
    """No perturbation: the baseline that only reads the clean embedding."""

    groups: tuple[Group, ...] = ()

    def views(self, x_BCHW: Tensor, z_BD: Tensor) -> list[Tensor]:  # noqa: ARG002
        return []


class GaussianProbe(nn.Module):
    """x' = clip(x + sigma * N), the same N for every picture. RIGID (He et al., arXiv 2405.20112).

    RIGID draws anew at each call; a seeded pattern makes the score a function of the picture. K patterns are averaged.
    """

    def __init__(self, config: ProbeConfig, size: int) -> None:
        super().__init__()
        self.groups: tuple[Group, ...] = (tuple((0, k + 1) for k in range(config.draws)),)
        self.noise_KCHW: Tensor
        noise = torch.from_numpy(seeded_noise(config.seed, (config.draws, 3, size, size)))
        self.register_buffer("noise_KCHW", config.sigma * noise, persistent=False)

    def views(self, x_BCHW: Tensor, z_BD: Tensor) -> list[Tensor]:  # noqa: ARG002
        return [(x_BCHW + noise_CHW).clamp(0, 1) for noise_CHW in self.noise_KCHW]


class BlurProbe(nn.Module):
    """Blurred copy against sharpened copy: contrastive blur (Tsai et al., arXiv 2411.19117).

    blur(x) = G * x, sharp(x) = clip(2x - blur(x)), with G a small Gaussian kernel and mirrored borders.
    """

    groups: tuple[Group, ...] = (((1, 2),),)

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        t = torch.arange(config.blur_size, dtype=torch.float64) - config.blur_size // 2
        weight = torch.exp(-(t**2) / (2 * config.blur_sigma**2))
        self.kernel_T: Tensor
        self.register_buffer("kernel_T", (weight / weight.sum()).float(), persistent=False)

    def views(self, x_BCHW: Tensor, z_BD: Tensor) -> list[Tensor]:  # noqa: ARG002
        blurred_BCHW = gaussian_blur(x_BCHW, self.kernel_T)
        return [blurred_BCHW, (2 * x_BCHW - blurred_BCHW).clamp(0, 1)]


class MinderProbe(nn.Module):
    """The smaller of the noise drift and the contrastive-blur drift: MINDER (Tsai et al., arXiv 2411.19117)."""

    def __init__(self, config: ProbeConfig, size: int) -> None:
        super().__init__()
        self.noise = GaussianProbe(config, size)
        self.blur = BlurProbe(config)
        shifted = tuple((i + config.draws, j + config.draws) for i, j in self.blur.groups[0])
        self.groups: tuple[Group, ...] = (*self.noise.groups, shifted)

    def views(self, x_BCHW: Tensor, z_BD: Tensor) -> list[Tensor]:
        return self.noise.views(x_BCHW, z_BD) + self.blur.views(x_BCHW, z_BD)


class HaarProbe(nn.Module):
    """x' = x without the finest Haar wavelet details: each 2x2 block becomes its mean. The high-frequency direction of
    WaRPAD (Choi et al., 2025); an odd last row or column stays as it is."""

    groups: tuple[Group, ...] = (((0, 1),),)

    def views(self, x_BCHW: Tensor, z_BD: Tensor) -> list[Tensor]:  # noqa: ARG002
        height, width = (length // 2 * 2 for length in x_BCHW.shape[2:])
        means_BChw = nn.functional.avg_pool2d(x_BCHW[:, :, :height, :width], 2)
        low_BCHW = x_BCHW.clone()
        low_BCHW[:, :, :height, :width] = means_BChw.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return [low_BCHW]


class LearnedProbe(nn.Module):
    """x' = clip(x + delta), delta = eps tanh(P(x, z)): the paper's Differential Robustness Probing (METHOD section 2).

    |x' - x| <= eps in PIXEL units. The noise pattern that breaks the symmetry of a new network is its own random start;
    at inference nothing is random.
    """

    groups: tuple[Group, ...] = (((0, 1),),)

    def __init__(self, config: ProbeConfig, dim: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.network = LightUNet(dim, config.width)

    @steady_arithmetic()
    def perturbation(self, x_BCHW: Tensor, z_BD: Tensor, eps: float | Tensor | None = None) -> Tensor:
        """delta_BCHW. `eps` replaces the checkpoint's: a number, or one for each picture as [B, 1, 1, 1]."""
        return (self.eps if eps is None else eps) * torch.tanh(self.network(x_BCHW, z_BD))

    def views(self, x_BCHW: Tensor, z_BD: Tensor, eps: float | Tensor | None = None) -> list[Tensor]:
        return [(x_BCHW + self.perturbation(x_BCHW, z_BD, eps)).clamp(0, 1)]


Probe = NoProbe | GaussianProbe | BlurProbe | MinderProbe | HaarProbe | LearnedProbe


def build_probe(config: ProbeConfig, size: int, dim: int) -> Probe:
    """The probe of a checkpoint whose pictures are `size` pixels wide and high, and embeddings `dim` wide."""
    match config.kind:
        case "none":
            return NoProbe()
        case "gaussian":
            return GaussianProbe(config, size)
        case "blur":
            return BlurProbe(config)
        case "minder":
            return MinderProbe(config, size)
        case "haar":
            return HaarProbe()
        case "drp":
            return LearnedProbe(config, dim)


def gaussian_blur(x_BCHW: Tensor, kernel_T: Tensor) -> Tensor:
    """Separable convolution of each channel with `kernel_T` (odd length, sum 1), borders mirrored."""
    channels, half = x_BCHW.shape[1], len(kernel_T) // 2
    kernel = kernel_T.expand(channels, 1, 1, -1)
    x_BCHW = nn.functional.conv2d(
        nn.functional.pad(x_BCHW, (half, half, 0, 0), mode="reflect"), kernel, groups=channels
    )
    return nn.functional.conv2d(
        nn.functional.pad(x_BCHW, (0, 0, half, half), mode="reflect"), kernel.mT, groups=channels
    )


def seeded_noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise that is the same, bit for bit, on every machine and library version.

    torch.randn differs between CPUs (it has an AVX2 path), and numpy promises stability for its bit generators only,
    not for its distributions. So: Philox bits, Box-Muller in fp64, rounded to 1/4096, which hides an ulp of log or cos.
    """
    count = int(np.prod(shape))
    bits = np.random.Philox(key=seed).random_raw(2 * count) >> np.uint64(11)  # 53 bits
    u = (bits.astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1)
    normal = np.sqrt(-2.0 * np.log(u[:count])) * np.cos(2.0 * np.pi * u[count:])
    return (np.round(normal * 4096) / 4096).astype(np.float32).reshape(shape)
