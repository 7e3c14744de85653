"""Scoring a corpus on Ray Data:  shards -> load (CPU) -> score (actor pool) -> stage -> commit.

Every stage has its own resources, and a batch of images is one row (schema.pack), so that Ray neither fuses the stages
nor reshapes what flows between them. Only crops (uint8), never files or full-size pictures, pass the object store.

Why not Ray Data's own checkpointing: it saves ids only when a write task ends, holds all of them in memory, and a
checkpoint left over from one output silently empties a run to another. The ledger (pipelines.ledger) keys on inputs,
not on blocks, and needs neither the same parallelism nor the same listing order to resume.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, TaskPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError

from pipelines.block_stats import ForgetBlockStats
from pipelines.cluster import connected, driver_node, purpose_of
from pipelines.coordinator import Coordinator, Progress, Request
from pipelines.lease import Lease
from pipelines.ledger import Ledger
from pipelines.listing import same_place
from pipelines.plan import Plan
from pipelines.process import tune
from pipelines.s3 import greet
from pipelines.schema import EVIDENCE, SCORE, pack, unpack
from pipelines.sink import stage
from pipelines.sources import each, open_source
from pipelines.storage import open_folder
from pipelines.weights import find_encoders, local_model
from radet.config import DetectorConfig, model_id, resolve
from radet.crop import CropPolicy
from radet.errors import ConfigError
from radet.software import software

if TYPE_CHECKING:
    from radet.detector import Detector

_SHARDS_AHEAD = 16
_ASK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """What to score, with what, where to. `address`: a Ray cluster; none starts one on this machine."""

    src: str | tuple[str, ...]
    out: str
    model: str = "radet-lite"
    address: str | None = None
    limit: int | None = None
    ids: str | None = None
    column: str | None = None
    workers: int | None = None  # scoring processes; default: one per GPU, else one per CPU core
    batch_size: int | None = None
    allow_http: bool = False
    rescore: bool = False


@dataclass(slots=True)
class Tally:
    """What a run has done so far; seconds are sums over all workers."""

    rows: int = 0
    scored: int = 0  # images that went through the detector
    joined: int = 0  # rows that take their score from a duplicate
    same: int = 0  # inputs whose content turned out to be what it was
    statuses: dict[str, int] = field(default_factory=dict)
    fetch_s: float = 0.0
    decode_s: float = 0.0
    score_s: float = 0.0

    def add(self, told: dict[str, Any]) -> None:
        """Count a staged batch, by what it tells of itself (pipelines.sink.stage)."""
        for name in ("rows", "scored", "joined", "same", "fetch_s", "decode_s", "score_s"):
            setattr(self, name, getattr(self, name) + told[name])
        for status, count in told["statuses"]:
            self.statuses[status] = self.statuses.get(status, 0) + count


class Watcher:
    """What a run tells while it runs; the command line shows it."""

    def opened(self, source: str, facts: dict[str, Any]) -> None:
        """When the listing has begun: what is scored, in words; what an interrupted run left, and the plan."""

    def moved(self, tally: Tally, progress: Progress) -> None:
        """After each staged batch, and at the end."""

    def committing(self) -> None:
        """When all is staged."""


def score(job: ScoreJob, watcher: Watcher) -> dict[str, Any]:
    """Score every new or changed input of `job.src` into `job.out`; returns the manifest of the committed run.

    Raises:
        ConfigError, ModelError: before any work.
        IncompleteError: an input has no row; nothing is committed, and the same call goes on where this one ended.
    """
    greet(job.model, *each(job.src), job.out)
    folder = resolve(local_model(job.model))
    config = DetectorConfig.read(folder)
    output = open_folder(job.out)
    if any(same_place(src, job.out) for src in each(job.src)):
        raise ConfigError(f"{job.out} is what is to be scored: give the scores a folder of their own, such as below it")
    source = open_source(job.src, ids=job.ids, column=job.column, allow_http=job.allow_http, but=job.out)
    started = datetime.now(UTC)
    try:
        with Lease(output) as lease, connected(job.address):
            coordinator, request, plan = _begin(job, model_id(folder), lease)
            opening = ray.get(coordinator.start.remote())
            opening["new"] = bool(ray.get(coordinator.shards.remote(0, 1)))
            plan = plan.cut_to(ray.get(coordinator.progress.remote()))
            watcher.opened(source.description, opening | asdict(plan))
            begun = time.perf_counter()
            # With nothing new, as on most nights for most corpora, there is no pipeline to start.
            batches = _batches(job, request, config, plan, coordinator) if opening["new"] else iter(())
            tally = _follow(batches, coordinator, lease, watcher, job.out)
            seconds = time.perf_counter() - begun
            progress = ray.get(coordinator.progress.remote())
            watcher.moved(tally, progress)
            watcher.committing()
            facts = {
                "model": config.name,
                "verdict": None if config.verdict is None else asdict(config.verdict),
                "source": source.description,
                "started": started.isoformat(),
                "finished": datetime.now(UTC).isoformat(),
                "inputs": progress.counts._asdict() | {"ignored": progress.ignored},
                "opening": opening,
                "work": asdict(tally),
                "seconds": seconds,
                "plan": asdict(plan),
                "software": software(),
            }
            manifest: dict[str, Any] = ray.get(coordinator.commit.remote(facts))
            ray.kill(coordinator)
            return manifest
    except RayError as error:
        cause = purpose_of(error)
        if cause is None:
            raise
        raise cause from None


def _begin(job: ScoreJob, model_id: str, lease: Lease) -> tuple[Any, Request, Plan]:
    """The run's coordinator, which has not begun to list yet; what it was asked; and who gets what of the cluster."""
    plan = Plan.of(ray.cluster_resources(), job.workers)
    request = Request(
        run=Ledger(open_folder(job.out), model_id="", rescore=False).next_run(),
        src=job.src,
        out=job.out,
        model_id=model_id,
        block=plan.block,
        ids=job.ids,
        column=job.column,
        limit=job.limit,
        allow_http=job.allow_http,
        rescore=job.rescore,
        lease=lease.id,
    )
    options = {"num_cpus": 0, "max_concurrency": 64, "max_restarts": 0, "scheduling_strategy": driver_node()}
    return ray.remote(Coordinator).options(**options).remote(request), request, plan


def _follow(batches: Iterator[dict[str, Any]], coordinator: Any, lease: Lease, watcher: Watcher, out: str) -> Tally:
    """Add up what the staged batches tell, and pass it on. Raises ConfigError where the lease is lost."""
    tally = Tally()
    progress, asked = ray.get(coordinator.progress.remote()), time.monotonic()
    for told in batches:
        tally.add(told)
        if time.monotonic() > asked + _ASK_EVERY_S:  # not for each batch: the coordinator has inputs to look up
            progress, asked = ray.get(coordinator.progress.remote()), time.monotonic()
        watcher.moved(tally, progress)
        if lease.lost:
            raise ConfigError(f"another run may have taken over {out}: this one stops without committing")
    return tally


def _batches(
    job: ScoreJob, request: Request, config: DetectorConfig, plan: Plan, coordinator: Any
) -> Iterator[dict[str, Any]]:
    """Run the pipeline; yields what each staged batch tells of itself."""
    ledger = Ledger(open_folder(job.out), model_id=request.model_id, rescore=job.rescore)
    # The pool starts as large as the cluster is: Ray shrinks one that may shrink while the first files are being read,
    # and is slow to let it grow back. It grows where the cluster does.
    most = plan.scorers if job.address is None or job.workers is not None else None
    # A pool that grows is left to Ray: nobody knows how far.
    _set_up_ray_data(store_bytes=None if most is None else plan.store_bytes(config.crop))
    dataset = (
        ray.data.read_datasource(_Shards(coordinator), num_cpus=0, override_num_blocks=1)
        .map_batches(
            partial(
                _load,
                desk=RemoteDesk(coordinator),
                policy=config.crop,
                allow_http=job.allow_http,
                block=plan.block,
                limited=job.limit is not None,
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=plan.loader_cpus,
        )
        .map_batches(
            Scorer,
            fn_constructor_kwargs={
                "model": job.model,
                "model_id": request.model_id,
                "batch_size": job.batch_size or plan.batch,
                "device": plan.device,
            },
            batch_size=1,  # row, a batch; and Ray takes no None beside a GPU
            batch_format="pyarrow",
            num_cpus=plan.scorer_cpus,
            num_gpus=plan.scorer_gpus,
            compute=ActorPoolStrategy(min_size=plan.scorers, max_size=most),
        )
        .map_batches(
            partial(_stage, ledger=ledger, run=request.run),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # what is next to nothing must not have to wait until nothing is left over
            # Each takes a fraction of the time that scoring does. Without a limit Ray starts a process for every batch
            # that waits, dozens of them, as soon as the driver is slow to take what is staged.
            compute=TaskPoolStrategy(size=plan.scorers + 1),
        )
    )
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_pylist()


def _set_up_ray_data(store_bytes: int | None) -> None:
    """Ray Data's settings for a run, in this process; the run may hold so much in the object store."""
    context = DataContext.get_current()
    context.target_max_block_size = 1  # every row, that is every batch, is a block of its own
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.custom_execution_callback_classes = [ForgetBlockStats]
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=store_bytes)


class _Shards(Datasource):  # type: ignore[misc]
    """The coordinator's shards, one row each, as it lists them."""

    def __init__(self, coordinator: Any) -> None:
        super().__init__()
        self._coordinator = coordinator

    def get_name(self) -> str:
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, **_: Any) -> list[ReadTask]:  # noqa: ARG002
        coordinator = self._coordinator

        def read() -> Iterator[pa.Table]:
            first = 0
            while shards := ray.get(coordinator.shards.remote(first, _SHARDS_AHEAD)):
                first += len(shards)
                for number, payload in shards:
                    yield pa.table({"number": [number], "payload": [payload]})

        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, metadata)]


class RemoteDesk:
    """The coordinator as the loaders see it."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    def begin(self, shard: int) -> int:
        begun: int = ray.get(self._coordinator.begin.remote(shard))
        return begun

    def dare(self, shard: int, key: bytes | None) -> bool:
        answer: bool = ray.get(self._coordinator.dare.remote(shard, key))
        return answer

    def wants(self, shard: int, first: int) -> bool:
        answer: bool = ray.get(self._coordinator.wants.remote(shard, first))
        return answer

    def admit(self, shard: int, first: int, inputs: list[tuple[bytes, bytes | None]]) -> list[bool]:
        answer: list[bool] = ray.get(self._coordinator.admit.remote(shard, first, inputs))
        return answer

    def claim(self, inputs: list[tuple[bytes, bytes]]) -> list[int]:
        answer: list[int] = ray.get(self._coordinator.claim.remote(inputs))
        return answer

    def finish_container(self, name: str, version: str, inputs: int) -> None:
        ray.get(self._coordinator.finish_container.remote(name, version, inputs))


def _load(
    rows: pa.Table, *, desk: "RemoteDesk", policy: CropPolicy, allow_http: bool, block: int, limited: bool
) -> Iterator[pa.Table]:
    from pipelines.load import Loader  # noqa: PLC0415 - imports torch, which the driver does without

    loader = Loader(desk=desk, policy=policy, allow_http=allow_http, block=block, limited=limited)
    for number, payload in zip(rows["number"].to_pylist(), rows["payload"].to_pylist(), strict=True):
        yield from loader.load(number, payload)


class Scorer:
    """One detector per process: crops in, evidence out."""

    def __init__(self, *, model: str, model_id: str, batch_size: int, device: str) -> None:
        self._model, self._model_id, self._device = model, model_id, device
        self._batch_size = batch_size

    @cached_property
    def _detector(self) -> "Detector":
        """Loaded with the first batch: an actor that dies in its constructor cannot say why."""
        from radet.detector import Detector  # noqa: PLC0415 - as above

        tune()
        find_encoders()
        detector = Detector.from_pretrained(local_model(self._model), device=self._device)
        if detector.model_id != self._model_id:
            raise ConfigError(
                f"{self._model} is another model on this node: {detector.model_id}, not {self._model_id}; if its files "
                "are the same, its encoder rounds otherwise here: write it anew with radet models convert, and use that"
            )
        return detector

    def __call__(self, row: pa.Table) -> pa.Table:
        table = unpack(row)
        crops = table["crop"].combine_chunks()
        scored = np.flatnonzero(crops.is_valid().to_numpy(zero_copy_only=False))
        found: list[dict[str, Any]] = [{}] * len(table)
        size = self._detector.config.crop.size if len(scored) else 0  # where nothing is to be scored, nothing is loaded
        start = time.perf_counter()
        for first in range(0, len(scored), self._batch_size):
            chosen = scored[first : first + self._batch_size]
            pixels = np.stack([np.frombuffer(crops[int(i)].as_buffer(), np.uint8) for i in chosen])
            evidence = self._detector.evidence(pixels.reshape(-1, size, size, 3))
            for position, index in enumerate(chosen):
                found[index] = evidence.row(position)
        now = datetime.now(UTC)
        added = {name: [values.get(name) for values in found] for name in EVIDENCE}
        added |= {"model_id": [self._model_id] * len(table), "scored_at": [now] * len(table)}
        table = table.drop_columns(["crop"])
        for name, values in added.items():
            table = table.append_column(name, pa.array(values, SCORE.field(name).type))
        seconds = (time.perf_counter() - start) / max(1, len(table))
        return pack(table.append_column("score_s", pa.array([seconds] * len(table), pa.float32())))


def _stage(rows: pa.Table, *, ledger: Ledger, run: str) -> pa.Table:
    told = stage(ledger, run, unpack(rows))
    statuses = pa.array([list(told.pop("statuses").items())], pa.map_(pa.string(), pa.int64()))
    return pa.Table.from_pylist([told]).append_column("statuses", statuses)
