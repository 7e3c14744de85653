"""The detector: pictures in, evidence and scores out. Training-free form: frozen encoder, fixed probe, real reference.

    z = f(x);  x' = probe(x);  z' = f(x');  u = 1 - cos(z, z');  logit = (ln u - mean_real) / std_real

B batch, H W pixels, C=3 channels, D embedding width, V views (clean first)
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from radet.config import DetectorConfig, Precision, identify, resolve
from radet.discrepancy import Drift, FrozenGaussian, measure_drift
from radet.encoders import FrozenEncoder, load_encoder, local_path
from radet.errors import ConfigError, ModelError
from radet.probes import build_probe
from radet.rows import ImageLike, read_row
from radet.score import Score, Verdict

Floats = NDArray[np.float32]

_CUDA_BATCH = 64
_TINY = 1e-12  # floor of u before the logarithm: a picture whose embedding does not move at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the detector found in B crops: the fields of a Score, float32 [B]; None where it does not look for that."""

    logit: Floats | None = None
    p_generated: Floats | None = None
    verdict: Sequence[Verdict] | None = None
    drift_cosine: Floats | None = None
    drift_l2: Floats | None = None
    drift_mahalanobis: Floats | None = None
    logit_semantic: Floats | None = None
    logit_discrepancy: Floats | None = None
    logit_lowlevel: Floats | None = None

    def row(self, index: int) -> dict[str, float | str | None]:
        """The evidence on one crop, by field name, as Python numbers."""
        found: dict[str, float | str | None] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            value = None if values is None else values[index]
            found[field.name] = float(value) if isinstance(value, np.floating) else value
        return found


class Detector(nn.Module):
    """A checkpoint, ready to score. `config` says what it is, `model_id` identifies it (radet.config.model_id).

    A picture's score never depends on its neighbours. On a CPU pictures pass through the encoder one by one, which is
    bit-exact and no slower (BLAS blocks differ with the batch); on CUDA in batches.
    """

    def __init__(
        self,
        config: DetectorConfig,
        encoder: FrozenEncoder,
        covariance: FrozenGaussian | None,
        folder: Path = Path(),
    ) -> None:
        """`covariance` is None exactly where `config.reference` is: then there are drifts but no logit.

        `folder` is where encoder weights with a relative path lie: the checkpoint's folder.
        """
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.probe = build_probe(config.probe, config.crop.size)
        self.covariance = covariance
        self.folder = folder
        self.model_id = identify(config, hashlib.sha256(self._packed()).hexdigest())
        self.train(False)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str | torch.device = "cpu", precision: Precision | None = None
    ) -> "Detector":
        """Load a checkpoint: a folder, `hf://org/name` or a bundled name.

        `device` is "cpu", "cuda" or "cuda:N"; `precision` replaces the checkpoint's and makes another model id.
        Raises ModelError (weights_missing, weights_mismatch, config_invalid), or ConfigError for a device not there.
        """
        device = _usable_device(device)
        folder = resolve(name_or_path)
        config = DetectorConfig.read(folder)
        if precision is not None:
            config = replace(config, precision=precision)
        covariance = _read_covariance(folder / "model.safetensors", config)
        encoder = load_encoder(config.encoder, folder, precision=config.precision)
        return cls(config, encoder, covariance, folder).to(device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; copy encoder weights only where they lie in the checkpoint."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(self._packed())
        (folder / "config.json").write_text(self.config.to_json(), encoding="utf-8")
        weights = local_path(self.config.encoder.weights, self.folder)
        target = folder / self.config.encoder.weights
        if weights is None or weights.resolve() == target.resolve():
            return
        if weights.is_dir():
            shutil.copytree(weights, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(weights, target)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Embeddings z_BD of pixels in [0, 1], fp32; a picture's does not depend on its neighbours."""
        return torch.cat([self.encoder.embed(chunk_BCHW) for chunk_BCHW in self._chunks(x_BCHW)])

    def drift(self, x_BCHW: Tensor) -> Drift | None:
        """Drift of pixels in [0, 1], in fp64; None where the probe is "none"."""
        z_BD = self.embed(x_BCHW)
        if not self.probe.groups:
            return None
        z_VBD = [z_BD, *(self.embed(view_BCHW) for view_BCHW in self.probe.views(x_BCHW, z_BD))]
        return measure_drift([z.double() for z in z_VBD], self.probe.groups)

    def evidence(self, crops_BHWC: NDArray[np.uint8] | Tensor) -> Evidence:
        """What is to be seen in crops of the checkpoint's size: uint8 [B, size, size, 3], B >= 0.

        Raises ConfigError for another shape or type, ModelError("numeric_selftest_failed") for a number not finite.
        """
        crops_BHWC = self._checked(crops_BHWC)
        with torch.inference_mode():
            found = [self._measure(chunk_BHWC) for chunk_BHWC in self._chunks(crops_BHWC)]
        columns = {
            name: np.concatenate([np.empty(0, np.float32), *(part[name] for part in found)], dtype=np.float32)
            for name in self._columns
        }
        if not all(np.isfinite(column).all() for column in columns.values()):
            raise ModelError("numeric_selftest_failed", f"{self.config.name} gave a score that is no finite number")
        return Evidence(
            logit=columns.get("logit_discrepancy"),
            logit_discrepancy=columns.get("logit_discrepancy"),
            drift_cosine=columns.get("drift_cosine"),
            drift_l2=columns.get("drift_l2"),
            drift_mahalanobis=columns.get("drift_mahalanobis"),
        )

    def score(
        self, images: Sequence[ImageLike], *, ids: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[Score]:
        """One Score a picture, in order; what is wrong with a picture is its `status`, never an exception.

        `ids` defaults to the uris: the path, or "#<position>" for bytes and opened pictures. `batch_size` bounds how
        many crops are in memory. Raises ConfigError if `ids` has another length than `images`.
        """
        if ids is not None and len(ids) != len(images):
            raise ConfigError(f"{len(images)} images and {len(ids)} ids: give one id for each image")
        scores: list[Score] = []
        for start in range(0, len(images), batch_size):
            rows = [
                read_row(image, position, self.config.crop)
                for position, image in enumerate(images[start : start + batch_size], start)
            ]
            crops = [row.crop for row in rows if row.crop is not None]
            evidence = self.evidence(np.stack(crops)) if crops else None
            now, seen = datetime.now(UTC), 0
            for row in rows:
                facts = {"id": row.facts["uri"] if ids is None else ids[len(scores)], **row.facts}
                if row.crop is not None and evidence is not None:
                    facts |= evidence.row(seen)
                    seen += 1
                scores.append(Score(**facts, model_id=self.model_id, scored_at=now))
        return scores

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _chunks(self, batch: Tensor) -> Iterator[Tensor]:
        step = 1 if self.device.type == "cpu" else _CUDA_BATCH
        return (batch[start : start + step] for start in range(0, len(batch), step))

    @property
    def _columns(self) -> list[str]:
        """The evidence that this checkpoint yields."""
        if not self.probe.groups:
            return []
        drifts = ["drift_cosine", "drift_l2"]
        return drifts if self.covariance is None else [*drifts, "drift_mahalanobis", "logit_discrepancy"]

    def _measure(self, crops_BHWC: Tensor) -> dict[str, NDArray[np.float64]]:
        drift = self.drift(to_pixels(crops_BHWC.to(self.device)))
        if drift is None:
            return {}
        columns = {"drift_cosine": drift.cosine, "drift_l2": drift.l2}
        reference = self.config.reference
        if self.covariance is not None and reference is not None:
            log_B = drift.cosine.clamp_min(_TINY).log()
            columns["drift_mahalanobis"] = self.covariance.mahalanobis(drift.delta)
            columns["logit_discrepancy"] = (log_B - reference.log_drift_mean) / reference.log_drift_std
        return {name: column.cpu().numpy() for name, column in columns.items()}

    def _checked(self, crops_BHWC: NDArray[np.uint8] | Tensor) -> Tensor:
        size = self.config.crop.size
        if not isinstance(crops_BHWC, Tensor):
            # A copy: arrays out of an object store are read-only, and views may have negative strides.
            crops_BHWC = torch.from_numpy(np.array(crops_BHWC, order="C"))
        if crops_BHWC.dtype != torch.uint8 or crops_BHWC.shape[1:] != (size, size, 3):
            raise ConfigError(
                f"crops must be uint8 [B, {size}, {size}, 3], not {crops_BHWC.dtype} {list(crops_BHWC.shape)}"
            )
        return crops_BHWC

    def _packed(self) -> bytes:
        """model.safetensors: our own tensors, without the encoder's."""
        own = {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}
        return save({key: value.cpu().contiguous() for key, value in own.items()})


def to_pixels(crops_BHWC: Tensor) -> Tensor:
    """uint8 crops -> x_BCHW in [0, 1], fp32."""
    return crops_BHWC.permute(0, 3, 1, 2).float() / 255


def _usable_device(device: str | torch.device) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch finds no CUDA device here; use device cpu")
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device {device}: radet runs on cpu and cuda (drifts need fp64)")
    return device


def _read_covariance(file: Path, config: DetectorConfig) -> FrozenGaussian | None:
    try:
        tensors = load(file.read_bytes())
    except FileNotFoundError:
        raise ModelError("weights_missing", f"{file} does not exist") from None
    except safetensors.SafetensorError as error:
        raise ModelError("weights_mismatch", f"{file} is no readable safetensors file: {error}") from None
    own = {key.removeprefix("covariance."): value for key, value in tensors.items()}
    dim, leading = config.encoder.dim, len(own.get("values_K", ()))
    shapes = {"mean_D": (dim,), "vectors_DK": (dim, leading), "values_K": (leading,), "tail": ()}
    if {key: tuple(value.shape) for key, value in own.items()} != (shapes if config.reference is not None else {}):
        raise ModelError("weights_mismatch", f"{file} does not hold the tensors that its config.json calls for")
    return FrozenGaussian(**own) if own else None
