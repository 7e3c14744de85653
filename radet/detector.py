"""The detector: pictures in, evidence and scores out.

    z = f(x);  x' = probe(x, z);  z' = f(x');  u = 1 - cos(z, z')
    trained         logit = fuse(semantic, discrepancy, lowlevel);  p = calibrate(logit)
    training-free   logit = (ln u - mean_real) / std_real

B batch, H W pixels, C=3 channels, D embedding width, V views (clean first)
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from radet.attribution import name_families
from radet.branches import Heads, Seen
from radet.calibration import probability, verdicts
from radet.config import DetectorConfig, Precision, identify, in_precision, resolve
from radet.discrepancy import Drift, FrozenGaussian, log_drift, measure_drift
from radet.encoders import FrozenEncoder, Look, load_encoder, local_path
from radet.errors import ConfigError, ModelError
from radet.evidence import Evidence
from radet.packed import FILE, packed_sha256, read_packed
from radet.probes import LearnedProbe, build_probe
from radet.rows import ImageLike, Row, read_row
from radet.score import Score
from radet.tensors import plain_tensors

#: How many crops pass together on a GPU: as many as a run hands over (pipelines.plan). 64 are a tenth slower.
CUDA_BATCH = 256


class Outcome(NamedTuple):
    """What the detector computed of B pictures, differentiable; None and {} where it has no such part."""

    drift: Drift | None
    mahalanobis: Tensor | None  # [B]
    fused: Tensor | None  # logit [B]
    branches: dict[str, Tensor]  # logit [B] by branch
    families: Tensor | None = None  # logits of K generator families, [B, K]


class Detector(nn.Module):
    """A checkpoint, ready to score. `config` says what it is, `model_id` identifies it (radet.config.model_id).

    A picture's score never depends on its neighbours. On a CPU pictures pass through the encoder one by one, which is
    bit-exact (BLAS blocks differ with the batch); on CUDA in batches. Thread-safe: threads take turns at every pass.
    Other processes take it pickled, or forked: then on a CPU only, with one thread (radet.tensors).
    """

    def __init__(
        self,
        config: DetectorConfig,
        encoder: FrozenEncoder,
        covariance: FrozenGaussian | None,
        folder: Path = Path(),
    ) -> None:
        """`covariance` is None exactly where `config.reference` is. Probe and heads start untrained.

        `folder` is where encoder weights with a relative path lie: the checkpoint's folder.
        """
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.probe = build_probe(config.probe, config.crop.size, encoder.dim)
        self.covariance = covariance
        self.heads = None if config.heads is None else Heads(config.heads, encoder.dim)
        self.folder = folder
        self.layers = () if config.heads is None else config.heads.layers
        if max(self.layers, default=0) >= len(encoder.blocks):
            raise ModelError("config_invalid", f"heads.layers: the encoder has blocks 0 to {len(encoder.blocks) - 1}")
        self._identified: tuple[DetectorConfig, list[Any], list[Tensor], str] | None = None
        self.train(False)

    @property
    def model_id(self) -> str:
        """Of config and tensors as they are now. They are hashed again when they have changed, in milliseconds."""
        tensors = list(self.own_tensors().values())  # held below: nothing else can come to lie where they are
        state = [None if tensor.is_inference() else (tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._identified is None or None in state or self._identified[:2] != (self.config, state):
            found = identify(self.config, packed_sha256(self._packed(), self.config.name))
            self._identified = self.config, state, tensors, found
        return self._identified[-1]

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str | torch.device = "cpu", precision: Precision | None = None
    ) -> "Detector":
        """Load a checkpoint: a folder, `hf://org/name` or a bundled name.

        `device` is "cpu", "cuda" or "cuda:N"; `precision` replaces the checkpoint's and makes another model id.
        Raises ModelError (weights_missing, weights_mismatch, config_invalid), or ConfigError for a device not there or
        a precision that there is not.
        """
        device = _usable_device(device)
        folder = resolve(name_or_path)
        config = in_precision(DetectorConfig.read(folder), precision)
        try:
            tensors = load(read_packed(folder))
        except safetensors.SafetensorError as error:
            raise ModelError("weights_mismatch", f"{folder / FILE} is no readable safetensors file: {error}") from None
        with plain_tensors():
            encoder = load_encoder(config.encoder, folder, precision=config.precision)
            same = encoder.sha256 == config.encoder.sha256
            config = replace(config, encoder=replace(config.encoder, sha256=encoder.sha256))
            detector = cls(config, encoder, None, folder)
            detector.restore(config, tensors, folder / FILE)
        if not same:
            from radet.selftest import require_golden  # noqa: PLC0415 - it imports this module

            require_golden(detector)
        return detector.to(device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; copy encoder weights only where they lie in the checkpoint."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(self._packed())
        (folder / "config.json").write_text(self.config.to_json(), encoding="utf-8")
        weights = local_path(self.config.encoder.weights, self.folder)
        target = folder / self.config.encoder.weights
        if weights is None or weights.resolve() == target.resolve():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if weights.is_dir():
            shutil.copytree(weights, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(weights, target)

    def forward(
        self,
        x_BCHW: Tensor,
        *,
        clean: Look | None = None,
        eps: float | Tensor | None = None,
        views: Sequence[Tensor] | None = None,
    ) -> Outcome:
        """Pixels in [0, 1] -> everything that can be said of them, as one batch.

        `clean` is the clean pass where it is known already; `eps` stands for a learned probe's own, one number or one
        for each picture as [B, 1, 1, 1]; `views` for what the probe would make of the pixels (radet.controls).
        Gradients reach probe and heads, never the encoder.
        """
        if clean is None:
            with torch.no_grad():
                clean = self.encoder.look(x_BCHW, self.layers) if self._looks else _nothing(x_BCHW)
        drift = mahalanobis = None
        scalars = x_BCHW.new_empty((len(x_BCHW), 0))
        if self.probe.groups:
            drift = self.drift(x_BCHW, clean, eps, views)
            if self.covariance is not None:
                mahalanobis = self.covariance.mahalanobis(drift.delta)
            scalars = log_scalars(drift, mahalanobis)
        if self.heads is None:
            return Outcome(drift, mahalanobis, None, {})
        delta = torch.zeros_like(clean.z) if drift is None else drift.delta.float()
        return Outcome(drift, mahalanobis, *self.heads(Seen(x_BCHW, clean.features, scalars, delta)))

    def drift(
        self,
        x_BCHW: Tensor,
        clean: Look,
        eps: float | Tensor | None = None,
        views: Sequence[Tensor] | None = None,
    ) -> Drift:
        """How far the probe moves what the encoder sees; arguments as in `forward`. Only where the probe has views."""
        if views is None:
            if isinstance(self.probe, LearnedProbe):
                views = self.probe.views(x_BCHW, clean.z, eps)
            else:
                views = self.probe.views(x_BCHW, clean.z)
        return measure_drift([clean, *(self.encoder.look(view, self.layers) for view in views)], self.probe.groups)

    def pixels(self, crops_BHWC: NDArray[np.uint8] | Tensor) -> Iterator[Tensor]:
        """Crops of the checkpoint's size, uint8 [B, size, size, 3], as x_BCHW in the chunks that pass together: one by
        one on a CPU. Raises ConfigError for another shape or type."""
        crops_BHWC = self._checked(crops_BHWC)
        step = 1 if self.device.type == "cpu" else CUDA_BATCH
        for start in range(0, len(crops_BHWC), step):
            part_BHWC = crops_BHWC[start : start + step]
            if self.device.type == "cuda" and part_BHWC.device.type == "cpu":
                part_BHWC = part_BHWC.pin_memory()  # copied while the card computes
            yield to_pixels(part_BHWC.to(self.device, non_blocking=True))

    def evidence(self, crops_BHWC: NDArray[np.uint8] | Tensor) -> Evidence:
        """What is to be seen in crops of the checkpoint's size: uint8 [B, size, size, 3], B >= 0.

        Raises ConfigError for another shape or type, ModelError("numeric_selftest_failed") for a number not finite.
        """
        with self.scoring():
            outcomes = [self(x_BCHW) for x_BCHW in self.pixels(crops_BHWC)]
        parts = [self._columns(outcome) for outcome in outcomes]
        columns = {
            name: np.concatenate([np.empty(0, np.float32), *(part[name] for part in parts)], dtype=np.float32)
            for name in self._evidence_names
        }
        generator = self._generators(outcomes)
        if not all(np.isfinite(column).all() for column in columns.values()):
            raise ModelError("numeric_selftest_failed", f"{self.config.name} gave a score that is no finite number")
        calibration, verdict = self.config.calibration, self.config.verdict
        if calibration is None or verdict is None:
            return Evidence(verdict=None, generator=generator, **columns)
        columns["p_generated"] = probability(columns["logit"], calibration)
        said = verdicts(columns["p_generated"], verdict)
        if generator is not None:
            generator = [None if word == "real" else name for word, name in zip(said, generator, strict=True)]
        return Evidence(**columns, verdict=said, generator=generator)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """No gradient, no autocast but the encoder's own, and eval mode, which stays: whatever the caller has set."""
        if self.training:
            self.eval()
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            yield

    def score(
        self, images: Iterable[ImageLike], *, ids: Iterable[str] | None = None, batch_size: int = 32
    ) -> list[Score]:
        """One Score a picture, in order; what is wrong with a picture is its `status`, never an exception.

        `ids` defaults to the uris: the path, or "#<position>" for bytes and opened pictures. `batch_size` bounds how
        many pictures are in memory, of a generator too, unless it comes with `ids`. Raises ConfigError if `ids` has
        another length than `images`, and for what is no picture.
        """
        if isinstance(images, str | bytes | IOBase) or not isinstance(images, Iterable):
            raise ConfigError(
                f"score takes pictures, one as a list too: score([picture]), not a {type(images).__name__}"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be >= 1, not {batch_size}")
        if ids is not None:
            images, ids = list(images), list(ids)
            if len(ids) != len(images):
                raise ConfigError(f"{len(images)} images and {len(ids)} ids: give one id for each image")
        scores: list[Score] = []
        numbered = enumerate(images)
        while part := list(islice(numbered, batch_size)):
            rows = [read_row(image, position, self.config.crop) for position, image in part]
            scores += self.score_rows(rows, None if ids is None else ids[len(scores) :])
        return scores

    def score_rows(self, rows: Sequence[Row], ids: Sequence[str] | None = None) -> list[Score]:
        """`score` of pictures that are read already, all at once; there may be more ids than rows."""
        crops = [row.crop for row in rows if row.crop is not None]
        evidence = self.evidence(np.stack(crops)) if crops else None
        model_id, now, seen = self.model_id, datetime.now(UTC), 0
        scores: list[Score] = []
        for row in rows:
            facts = {"id": row.facts["uri"] if ids is None else ids[len(scores)], **row.facts}
            if row.crop is not None and evidence is not None:
                facts |= evidence.row(seen)
                seen += 1
            scores.append(Score(**facts, model_id=model_id, scored_at=now))
        return scores

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def restore(self, config: DetectorConfig, tensors: dict[str, Tensor], source: object) -> None:
        """Take covariance, probe and heads from `tensors` (`own_tensors` of a detector with this config), strictly.

        Raises ModelError("weights_mismatch") that names `source`.
        """
        self.covariance = covariance = None
        own = self.own_tensors()
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {key: (value.dtype, value.shape) for key, value in own.items()}
        if config.reference is not None:
            dim, leading = config.encoder.dim, tensors.get("covariance.values_K", torch.empty(0)).numel()
            shapes = zip(FrozenGaussian.NAMES, ((dim,), (dim, leading), (leading,), ()), strict=True)
            wanted |= {f"covariance.{key}": (torch.float32, shape) for key, shape in shapes}
        if {key: (value.dtype, value.shape) for key, value in tensors.items()} != wanted:
            raise ModelError(
                "weights_mismatch", f"{source} does not hold the tensors that its config.json wants, in fp32"
            )
        if config.reference is not None:
            covariance = FrozenGaussian(*(tensors[f"covariance.{key}"] for key in FrozenGaussian.NAMES))
            if not covariance.positive:
                raise ModelError("weights_mismatch", f"{source}: its covariance is none, values_K and tail must be > 0")
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(tensors[key])
        self.covariance = None if covariance is None else covariance.to(self.device)
        self.config = config

    @property
    def _looks(self) -> bool:
        """Whether anything is asked of the encoder: a residual CNN alone sees pixels only."""
        heads = self.config.heads
        return bool(self.probe.groups) or heads is None or heads.branches != ("lowlevel",) or bool(heads.attribution)

    @property
    def look_widths(self) -> tuple[int, ...]:
        """Widths of what a pass of the encoder gives: the embedding's, then each layer's token's."""
        return (self.encoder.dim, *(() if self.config.heads is None else self.config.heads.token_dims))

    def own_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the checkpoint that is not the encoder's, by name; no copies."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}

    @property
    def _evidence_names(self) -> list[str]:
        """The fields of an Evidence that this detector fills, before calibration."""
        names: list[str] = []
        if self.probe.groups:
            names += ["drift_cosine", "drift_l2"]
        if self.config.reference is not None and self.probe.groups:
            names += ["drift_mahalanobis"]
        if self.heads is not None:
            names += ["logit", *(f"logit_{name}" for name in self.heads.branches)]
        elif "drift_mahalanobis" in names:
            names += ["logit", "logit_discrepancy"]
        return names

    def _columns(self, outcome: Outcome) -> dict[str, NDArray[np.float64]]:
        """What the outcome says, by `_evidence_names`."""
        found: dict[str, Tensor] = {}
        if outcome.drift is not None:
            found |= {"drift_cosine": outcome.drift.cosine, "drift_l2": outcome.drift.l2}
        if outcome.mahalanobis is not None:
            found["drift_mahalanobis"] = outcome.mahalanobis
        reference = self.config.reference
        if outcome.fused is not None:
            found["logit"] = outcome.fused
            found |= {f"logit_{name}": logit_B for name, logit_B in outcome.branches.items()}
        elif outcome.drift is not None and reference is not None:
            logit_B = (log_drift(outcome.drift.cosine) - reference.log_drift_mean) / reference.log_drift_std
            found |= {"logit": logit_B, "logit_discrepancy": logit_B}
        return {name: column.double().cpu().numpy() for name, column in found.items()}

    def _generators(self, outcomes: list[Outcome]) -> list[str | None] | None:
        """The family of each picture, verdict aside; None without attribution."""
        config = None if self.config.heads is None else self.config.heads.attribution
        if config is None:
            return None
        found: list[str | None] = []
        for outcome in outcomes:
            assert outcome.families is not None
            found += name_families(outcome.families.double().cpu().numpy(), config)
        return found

    def _checked(self, crops_BHWC: NDArray[np.uint8] | Tensor) -> Tensor:
        size = self.config.crop.size
        if not isinstance(crops_BHWC, Tensor):
            # Copied where torch wants it: arrays out of an object store are read-only, views may have negative strides.
            crops_BHWC = torch.from_numpy(np.require(crops_BHWC, requirements=("C", "W")))
        if crops_BHWC.dtype != torch.uint8 or crops_BHWC.shape[1:] != (size, size, 3):
            raise ConfigError(
                f"crops must be uint8 [B, {size}, {size}, 3], not {crops_BHWC.dtype} {list(crops_BHWC.shape)}"
            )
        return crops_BHWC

    def _packed(self) -> bytes:
        """model.safetensors: our own tensors, without the encoder's."""
        return save({key: value.cpu().contiguous() for key, value in self.own_tensors().items()})


def _nothing(x_BCHW: Tensor) -> Look:
    return Look(x_BCHW.new_empty((len(x_BCHW), 0)), ())


def log_scalars(drift: Drift, mahalanobis: Tensor | None) -> Tensor:
    """What the discrepancy branch reads of a drift: ln of u, l2, m2 (where it is measured) and of each layer's u."""
    columns = [drift.cosine, drift.l2, *([] if mahalanobis is None else [mahalanobis])]
    return log_drift(torch.cat([torch.stack(columns, dim=1), drift.layers], dim=1)).float()


def to_pixels(crops_BHWC: Tensor) -> Tensor:
    """uint8 crops -> x_BCHW in [0, 1], fp32."""
    return crops_BHWC.permute(0, 3, 1, 2).float() / 255


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device {device!r}: there are cpu, cuda and cuda:N") from None
    if found.type == "cuda" and not (torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count()):
        raise ConfigError(f"device {found}: torch finds no such CUDA device here; use device cpu")
    if found.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device {found}: radet runs on cpu and cuda (drifts need fp64)")
    return found
