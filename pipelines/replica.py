"""The scorer: one detector in one process; crops in, evidence out, in batches that form as they come."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipelines.batcher import Batcher
from pipelines.model import Explained, ModelFacts, OtherCrop, Problem, Scored
from pipelines.monitor import REPORT_EVERY_S, Report
from pipelines.observe import Meters
from pipelines.process import tune
from pipelines.settings import Band, ScorerSettings
from pipelines.weights import find_encoders, local_model
from radet.crop import CropPolicy
from radet.errors import ConfigError, ModelError, RadetError
from radet.score import Score
from radet.thresholds import VerdictConfig

if TYPE_CHECKING:
    from radet.detector import Detector
    from radet.images import Pixels

_SELF_TEST_BATCHES = (7,)  # of the drift floor: a few seconds on a CPU
_UNSENT = 5000  # scores that wait for a monitor which is away

T = TypeVar("T")
Tell = Callable[[Report], Awaitable[Any]]


class Scorer:
    """Loads and tests its detector in the first `reconfigure`; until then, and if that fails, it scores nothing."""

    def __init__(self, model: str, *, device: str, most: int, replica: str, tell: Tell) -> None:
        """`most`: requests that Serve lets in at once, at least twice a batch. `tell` takes reports."""
        self._model, self._device, self._most = model, device, most
        self._tell = tell
        self._meters = Meters(replica)
        self._detector: Detector | None = None
        self._of_checkpoint: ModelFacts | None = None
        self._facts: ModelFacts | None = None  # once its thresholds are what was asked for, too
        self._own: VerdictConfig | None = None
        self._fresh: list[tuple[float, float | None]] = []
        self._reporting: asyncio.Task[None] | None = None
        # One thread computes: batches, explanations, all in turn.
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="radet-compute")
        self._batches = Batcher(self._score_batch, most=1, wait_s=0.0)  # until it is configured, and on a CPU
        self._explaining = asyncio.Lock()
        self._batch_size = 1

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Load if need be, then take batch sizes and thresholds.

        Raises ModelError or ConfigError, and changes nothing; where it has never scored, the monitor is told why.
        """
        try:
            settings: ScorerSettings = ScorerSettings.read(config)
            if 2 * settings.max_batch_size > self._most:
                message = f"max_batch_size {settings.max_batch_size} needs max_ongoing_requests of twice that"
                raise ConfigError(f"{message}, not {self._most}")
            await self._in_compute(self._prepare, settings.band)
        except RadetError as error:
            await self.failed(error)
            raise
        self._batch_size = settings.max_batch_size
        if self._device != "cpu":  # where pictures pass the detector one by one, no answer waits for a second picture
            self._batches.most, self._batches.wait_s = settings.max_batch_size, settings.batch_wait_ms / 1000
        await self._report()
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._keep_reporting())

    async def failed(self, error: RadetError) -> None:
        """Tell the monitor why it cannot start. Where it scores already nothing is wrong with it."""
        if not self.loaded:
            problem = Problem(code=error.code, message=error.message)
            with suppress(Exception):  # the monitor may be away: Serve's log has the error as well
                await self._tell(Report(replica=self._meters.replica, kind="scorer", problem=problem))

    @property
    def batch_size(self) -> int:
        """Pictures of a full batch; on a CPU only a measure of how many may wait."""
        return self._batch_size

    @property
    def loaded(self) -> bool:
        return self._facts is not None

    @property
    def facts(self) -> ModelFacts | None:
        """What it scores with."""
        return self._facts

    @property
    def meters(self) -> Meters:
        return self._meters

    async def score(self, crop: "Pixels", policy: CropPolicy, *, patient: bool = False) -> Scored | OtherCrop:
        """Evidence on one crop, uint8 [size, size, 3], that was cut by `policy`. `patient`: see Batcher.submit."""
        facts = self._ready()
        if policy != facts.policy:
            return OtherCrop(facts=facts)
        return await self._batches.submit((crop, time.perf_counter()), patient=patient)

    async def explain(
        self,
        crop: "Pixels",
        policy: CropPolicy,
        facts: dict[str, Any],
        id: str | None,  # noqa: A002
    ) -> Explained | OtherCrop:
        """Why a picture scores as it does: its crop, and `facts`, the fields of its Score that are known without the
        detector. Only one at a time is with the thread that computes, so that batches take turns with them."""
        ready = self._ready()
        if policy != ready.policy:
            return OtherCrop(facts=ready)
        entered = time.perf_counter()
        async with self._explaining:
            return await self._in_compute(self._explain, crop, facts, id, entered)

    async def _score_batch(self, entered: list[tuple["Pixels", float]]) -> list[Scored]:
        return await self._in_compute(self._score, entered)

    def _score(self, entered: list[tuple["Pixels", float]]) -> list[Scored]:
        begun = time.perf_counter()
        detector, facts = self._loaded, self._ready()
        evidence = detector.evidence(np.stack([crop for crop, _ in entered]))
        seconds = time.perf_counter() - begun
        self._meters.batch.observe(len(entered))
        self._meters.inference.observe(seconds)
        found = []
        for index, (_, when) in enumerate(entered):
            row = evidence.row(index)
            self._count(row, begun - when)
            found.append(
                Scored(
                    evidence=row,
                    model_id=facts.model_id,
                    band=facts.band,
                    queue_s=begun - when,
                    inference_s=seconds,
                    batch=len(entered),
                )
            )
        return found

    def _count(self, row: dict[str, Any], queue_s: float) -> None:
        self._meters.queue.observe(queue_s)
        p, drift = row["p_generated"], row["drift_cosine"]
        if p is not None:
            self._meters.score.observe(p)
        if len(self._fresh) < _UNSENT:
            self._fresh.append((float("nan") if p is None else p, drift))

    def _explain(self, crop: "Pixels", facts: dict[str, Any], id: str | None, entered: float) -> Explained:  # noqa: A002
        from radet.explain import explain_crop  # noqa: PLC0415 - torch, see pipelines.process

        begun = time.perf_counter()
        detector, ready = self._loaded, self._ready()
        score = Score(
            id=facts["uri"] if id is None else id,
            **facts,
            **detector.evidence(crop[None]).row(0),  # type: ignore[arg-type]
            model_id=ready.model_id,
            scored_at=datetime.now(UTC),
        )
        return Explained(
            explanation=explain_crop(detector, crop, score),
            band=ready.band,
            queue_s=begun - entered,
            explain_s=time.perf_counter() - begun,
        )

    def _prepare(self, band: Band | None) -> None:
        if self._detector is None:
            self._load()
        detector = self._loaded
        verdict = self._own if band is None else _verdict(detector, band)
        detector.config = replace(detector.config, verdict=verdict)
        assert self._of_checkpoint is not None
        self._facts = replace(
            self._of_checkpoint,
            model_id=detector.model_id,
            band=None if verdict is None else (verdict.real_below, verdict.generated_above),
        )
        self._meters.self_test(self._facts.model_id)

    def _load(self) -> None:
        from radet.detector import Detector  # noqa: PLC0415
        from radet.selftest import selftest  # noqa: PLC0415

        tune()
        find_encoders()
        detector = Detector.from_pretrained(local_model(self._model), device=self._device)
        tested = selftest(detector, batches=_SELF_TEST_BATCHES)
        config = detector.config
        calibration, reference = config.calibration, config.reference
        self._own = config.verdict
        self._of_checkpoint = ModelFacts(
            name=config.name,
            description=config.description,
            model_id=tested.model_id,
            checkpoint_id=tested.model_id,
            encoder=f"{config.encoder.family}/{config.encoder.name}",
            encoder_sha256=config.encoder.sha256,
            precision=config.precision,
            device=str(detector.device),
            policy=config.crop,
            calibrated=calibration is not None,
            band=None,
            thresholds=config.thresholds,
            golden_error=tested.golden_error,
            floor=tested.floor,
            reference_real=None if calibration is None else calibration.real,
            reference_generated=None if calibration is None else calibration.generated,
            reference_drift=None if reference is None else reference.quantiles,
        )
        self._detector = detector

    @property
    def _loaded(self) -> "Detector":
        assert self._detector is not None
        return self._detector

    def _ready(self) -> ModelFacts:
        if self._facts is None:
            raise ModelError("weights_missing", "no detector is loaded")
        return self._facts

    async def _in_compute(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._compute, work, *args)

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            await self._report()

    async def _report(self) -> None:
        scores, self._fresh = self._fresh, []
        try:
            await self._tell(
                Report(
                    replica=self._meters.replica,
                    kind="scorer",
                    metrics=self._meters.snapshot(),
                    facts=self._facts,
                    scores=scores,
                )
            )
        except Exception:  # noqa: BLE001 - the monitor is away: scoring goes on, the scores are told next time
            self._fresh = (scores + self._fresh)[:_UNSENT]


def _verdict(detector: "Detector", band: Band) -> VerdictConfig:
    """A band of the operator's own, with the error rates that it had on the calibration pictures."""
    from radet.metrics import percentile  # noqa: PLC0415 - scipy and more

    calibration = detector.config.calibration
    if calibration is None:
        raise ConfigError(f"{detector.config.name} is not calibrated: there is no p_generated to set a band on")
    if band.real_below > band.generated_above:
        raise ConfigError("user_config band: real_below must not be above generated_above")
    return VerdictConfig(
        real_below=band.real_below,
        generated_above=band.generated_above,
        target_fpr=1 - percentile(band.generated_above, calibration.real),
        target_fnr=percentile(band.real_below, calibration.generated),
    )
