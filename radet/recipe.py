"""How a detector is trained: one YAML file, one frozen dataclass. Defaults are the paper's where it has one.

"paper" below is arXiv 2603.01544 and its authors' release; what we do otherwise says why.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from radet.augment import AugmentConfig
from radet.config import (
    LEAST_REFERENCE,
    AttributionConfig,
    BranchName,
    Family,
    HeadsConfig,
    Precision,
    ProbeConfig,
    Rounding,
)
from radet.crop import CropPolicy
from radet.errors import ConfigError
from radet.typed import from_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderChoice:
    """The frozen encoder, as in radet.config.EncoderConfig; hash and width are measured when training begins.

    The paper: DINOv3 ViT-L/16 (figures also with CLIP).
    """

    family: Family
    name: str
    weights: str
    rounding: Rounding = "none"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not min(self.std) > 0:
            raise ConfigError("encoder: every std must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginConfig:
    """The contrastive margin L_ra (METHOD section 3).

    `weight`      lambda in L, >= 0; paper 1.0; 0 trains without it
    `gamma`       paper 1.0: generated pictures are to drift twice as much as real ones
    `normalised`  paper's recommended run: yes
    """

    weight: float = 1.0
    gamma: float = 1.0
    normalised: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf or not 0 <= self.gamma < math.inf:
            raise ConfigError("margin: weight and gamma must be >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig:
    """The linear probe that the semantic branch starts from (radet.linear_probe); the paper has none.

    `pictures`  it is fitted on before the first step: those of the first steps, and of as many epochs as it takes
    `penalty`   lambda in mean BCE + lambda/2 |w|^2, of standardised features
    """

    pictures: int = 8192
    penalty: float = 0.1

    def __post_init__(self) -> None:
        if self.pictures < 2 or not 0 < self.penalty < math.inf:
            raise ConfigError("linear: pictures must be >= 2 and penalty > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserConfig:
    """AdamW with linear warm-up and cosine decay to zero.

    `rate`          paper 1e-4, constant, without warm-up
    `weight_decay`  paper 0.01
    `warmup`        share of all steps
    `clip`          largest gradient norm; paper none
    """

    rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0

    def __post_init__(self) -> None:
        positive = all(0 < number < math.inf for number in (self.rate, self.clip))
        if not positive or not 0 <= self.weight_decay < math.inf or not 0 <= self.warmup < 1:
            raise ConfigError("optimiser: rate and clip must be > 0, weight_decay >= 0, warmup in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what comes out of a training run, the data aside.

    `branches`         evidence that is fused; the paper also has a five-token "foundation" branch, whose place our
                       semantic branch takes at a third of the cost
    `layers`           encoder blocks the semantic branch reads beside the embedding, from 0
    `precision`        what the checkpoint scores with
    `train_precision`  what the encoder runs in while it trains: bf16 where it pays. Statistics, calibration and
                       thresholds are then measured once more, at the end, in `precision`
    `train_compiled`   whether torch.compile takes a transformer's blocks while it trains; measured once more likewise.
                       In bf16 on an H200 1.1 times the images/s for CLIP ViT-L/14, and for DINOv3 ViT-L/16 1.7 times
                       before radet/dinov3.py
    `hidden`           width of the branches' small MLPs
    `dropout`          paper 0.1
    `lowlevel_width`   first stage of the residual CNN; the paper's is a ResNet-34
    `branch_weight`    1/2 sum_b BCE(branch_b) beside BCE(fused) (METHOD section 3; the paper leaves fused untrained)
    `eps_range`        if given, eps is drawn from it for each picture while training (the paper's 4/255 to 32/255 never
                       acted in its release); `probe.eps` is used at inference
    `epochs`           at most; paper 1 of 720,000 pictures
    `global_batch`     pictures per step over all workers; paper 256
    `micro_batch`      pictures per pass; changes memory and speed, not what is learned
    `views`            fixed augmented views of each picture that epochs take in turn; 0 draws anew in every epoch
    `cache_clean`      keep the clean pass of every view (needs views > 0): same numbers, half the encoder's work
    `patience`         epochs without a better validation AUROC before the run ends
    `reference_images` real training pictures that drift statistics are frozen from, at least 6
    `attribution`      also learn which generator made a picture (radet.attribution); the paper has none
    `seed`             of the start, the order, the augmentation and dropout
    """

    name: str
    description: str = ""
    encoder: EncoderChoice
    crop: CropPolicy = field(default_factory=CropPolicy)
    precision: Precision = "fp32"
    train_precision: Precision = "fp32"
    train_compiled: bool = False
    probe: ProbeConfig = field(default_factory=lambda: ProbeConfig(kind="drp"))
    branches: tuple[BranchName, ...] = ("semantic", "discrepancy", "lowlevel")
    layers: tuple[int, ...]
    linear: LinearConfig = field(default_factory=LinearConfig)
    hidden: int = 64
    dropout: float = 0.1
    lowlevel_width: int = 32
    margin: MarginConfig = field(default_factory=MarginConfig)
    branch_weight: float = 0.5
    eps_range: tuple[float, float] | None = None
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: int = 10
    global_batch: int = 256
    micro_batch: int = 32
    views: int = 0
    cache_clean: bool = False
    patience: int = 5
    reference_images: int = 512
    attribution: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("epochs", "global_batch", "micro_batch", "patience", "hidden")
        if wrong := [name for name in positive if getattr(self, name) < 1]:
            raise ConfigError(f"{wrong[0]} must be >= 1")
        if self.global_batch % self.micro_batch:
            raise ConfigError(f"global_batch {self.global_batch} must be a multiple of micro_batch {self.micro_batch}")
        if self.views < 0 or (self.cache_clean and not self.views):
            raise ConfigError("cache_clean needs views >= 1: a view that never comes back is not worth keeping")
        if self.probe.kind == "none" and "discrepancy" in self.branches:
            raise ConfigError("branches: discrepancy needs a probe, probe.kind is none")
        if self.attribution and "semantic" not in self.branches:
            raise ConfigError("attribution needs the semantic branch, with whose linear probe it is fitted")
        if self.eps_range is not None and not 0 < self.eps_range[0] <= self.eps_range[1] <= 1:
            raise ConfigError("eps_range must be two numbers, 0 < low <= high <= 1, in pixel units")
        if self.reference_images < LEAST_REFERENCE:
            raise ConfigError(f"reference_images must be >= {LEAST_REFERENCE}; some hundreds give useful statistics")
        if not 0 <= self.branch_weight < math.inf or not 0 <= self.seed < 1 << 63:
            raise ConfigError("branch_weight must be >= 0, seed >= 0 and below 2^63")
        self.probe.require_size(self.crop.size)
        self.heads(token_dims=(1,) * len(self.layers))

    def heads(self, token_dims: tuple[int, ...], attribution: AttributionConfig | None = None) -> HeadsConfig:
        """The heads that it asks for, on an encoder with these widths of the layers' tokens."""
        return HeadsConfig(
            branches=self.branches,
            layers=self.layers,
            token_dims=token_dims,
            scalars=0 if self.probe.kind == "none" else 3 + len(self.layers),
            hidden=self.hidden,
            lowlevel_width=self.lowlevel_width,
            dropout=self.dropout,
            attribution=attribution,
        )

    @classmethod
    def read(cls, file: str | Path) -> "Recipe":
        """From YAML. Raises ConfigError that names the file, the key and what to write there."""
        return from_yaml(cls, file)
