"""The service on Ray Serve: fronts (decode, answer), scorers (one detector each, autoscaled), one monitor.

    proxy --> Front --> Scorer          `serve deploy cluster/serve.yaml`, or `radet serve`
                 \\________\\--> Monitor

Fronts scale with decoding, scorers with inference. Overload is refused where
fronts queue for scorers (`max_queued_requests`): what is accepted waits for a bounded number of pictures.
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from pipelines.model import Explained, ModelFacts, OtherCrop, Problem, Scored
from pipelines.monitor import Monitor, Report
from pipelines.process import WORKER_ENV
from pipelines.remote import RemoteMonitor, RemoteScorer
from pipelines.replica import Scorer
from pipelines.settings import FrontSettings, ScorerSettings
from radet.crop import CropPolicy

if TYPE_CHECKING:
    from fastapi import FastAPI

    from radet.images import Pixels

APP = "radet"
_QUIET = {"enable_access_log": False, "log_level": "WARNING"}  # what was asked, and by whom, is not for logs
_RETRY_AFTER_S = 1.0
_SHUTDOWN_S = 30.0
_LOADS = 2  # a checkpoint that cannot be loaded twice cannot be loaded
_REPLICA_ENV = {
    # Fronts and scorers leave their loops free (what computes has threads of its own), so Serve's own work shares them:
    # 4 % more pictures a second on two cores.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # A crop of 224 pixels has 147 KiB. Above 100 KiB Ray takes arguments through the object store: 8 % of the cores.
    "RAY_max_direct_call_object_size": str(1 << 20),
}


class ServeArgs(BaseModel):
    """What is fixed when the service starts; limits, batches and thresholds change later (pipelines.settings)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "radet-lite"
    allow_url: bool = False
    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0.0  # of each scorer; 0: it computes on a CPU
    cpus: Annotated[float, Field(ge=0)] = 1.0  # of each scorer
    fronts: Annotated[int, Field(ge=1)] = 1
    front_cpus: Annotated[float, Field(ge=0)] = 0.0  # decode threads of a front; 0: half of the machine's cores
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0
    env: dict[str, str] = {}  # of every replica
    front: FrontSettings = FrontSettings()
    scorer: ScorerSettings | None = None

    @model_validator(mode="after")
    def _replicas(self) -> "ServeArgs":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be above max_replicas")
        return self

    @property
    def scoring(self) -> ScorerSettings:
        """On a CPU pictures pass the detector one by one: a larger batch only makes its pictures wait, and queues more
        of them where there are too many."""
        return self.scorer or ScorerSettings(max_batch_size=32 if self.gpus else 2)


def application(args: ServeArgs) -> Application:
    """What `serve deploy` builds: `import_path: pipelines.serve:application`."""
    batch = args.scoring.max_batch_size
    actor = {"runtime_env": {"env_vars": WORKER_ENV | _REPLICA_ENV | args.env}}
    refusal = {"status_code": 503, "retry_after_s": _RETRY_AFTER_S}
    # Replacements start before what they replace stops: without it, a rollout of one replica is an outage.
    orderly = {
        "graceful_shutdown_timeout_s": _SHUTDOWN_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "max_surge_percent": 100,
    }
    monitor = serve.deployment(
        _Monitor,
        name="Monitor",
        ray_actor_options=actor | {"num_cpus": 0},
        max_ongoing_requests=256,
        max_queued_requests=1024,
        graceful_shutdown_timeout_s=2.0,
    ).bind()
    scorer = serve.deployment(
        _Scorer,
        name="Scorer",
        ray_actor_options=actor | {"num_cpus": args.cpus, "num_gpus": args.gpus},
        # Twice a batch: one is computed while the next one forms.
        max_ongoing_requests=2 * batch,
        max_queued_requests=2 * batch,
        backpressure_config=refusal,
        user_config=args.scoring.model_dump(),
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": batch,
            "upscale_delay_s": args.upscale_delay_s,
            "downscale_delay_s": args.downscale_delay_s,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 5.0,
        },
        health_check_period_s=5.0,
        max_constructor_retry_count=_LOADS,
        **orderly,
    ).bind(args.model, device="cuda" if args.gpus else "cpu", most=2 * batch, monitor=monitor)
    front: Application = serve.deployment(
        serve.ingress()(_Front),
        name="Front",
        ray_actor_options=actor | {"num_cpus": args.front_cpus},
        num_replicas=args.fronts,
        # The front refuses by itself, in JSON; this is what holds where even that is too slow.
        max_ongoing_requests=512,
        max_queued_requests=512,
        backpressure_config=refusal,
        user_config=args.front.model_dump(),
        health_check_period_s=5.0,
        **orderly,
    ).bind(scorer, monitor, allow_url=args.allow_url, fronts=args.fronts, cpus=args.front_cpus)
    return front


def start(args: ServeArgs, *, host: str, port: int) -> None:
    """Start the service on the connected cluster; returns when it is deployed. Raises RuntimeError where it cannot be:
    `problems` then knows more."""
    serve.start(
        proxy_location="HeadOnly" if host.startswith("127.") else "EveryNode",
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=120.0),
        logging_config=_QUIET,
    )
    serve.run(application(args), name=APP, route_prefix="/", logging_config=_QUIET)


def stop() -> None:
    """Let requests under way finish, then end the service."""
    serve.shutdown()


def problems(timeout_s: float = 5.0) -> list[Problem]:
    """Why scorers could not start, as the monitor knows it; [] where it does not run either."""
    try:
        handle = serve.get_deployment_handle("Monitor", APP)
        found: list[Problem] = handle.problems.remote().result(timeout_s=timeout_s)
    except (RayServeException, RayError, TimeoutError):
        return []
    return found


class _Monitor:
    def __init__(self) -> None:
        self._monitor = Monitor()

    async def report(self, report: Report) -> None:
        self._monitor.report(report)

    async def models(self) -> list[ModelFacts]:
        return self._monitor.models()

    async def problems(self) -> list[Problem]:
        return self._monitor.problems()

    async def text(self) -> bytes:
        return self._monitor.text()


class _Scorer:
    def __init__(self, model: str, *, device: str, most: int, monitor: Any) -> None:
        self._scorer = Scorer(
            model,
            device=device,
            most=most,
            replica=_replica_name(),
            tell=RemoteMonitor(monitor).report,
        )

    async def reconfigure(self, config: dict[str, Any]) -> None:
        await self._scorer.reconfigure(config)

    async def score(self, crop: "Pixels", policy: CropPolicy) -> Scored | OtherCrop:
        return await self._scorer.score(crop, policy)

    async def explain(self, data: bytes, id: str | None, side: int, opacity: float) -> Explained | Problem:  # noqa: A002
        return await self._scorer.explain(data, id, side, opacity)


class _Front:
    def __init__(self, scorer: Any, monitor: Any, *, allow_url: bool, fronts: int, cpus: float) -> None:
        from pipelines.front import Front, decode_threads  # noqa: PLC0415 - torch, which the driver does without
        from pipelines.process import tune  # noqa: PLC0415

        tune()
        self._front = Front(
            RemoteScorer(scorer),
            RemoteMonitor(monitor),
            replica=_replica_name(),
            allow_url=allow_url,
            fronts=fronts,
            threads=decode_threads(cpus),
        )

    async def reconfigure(self, config: dict[str, Any]) -> None:
        self._front.reconfigure(config)
        self._front.start()

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from pipelines.routes import build_app  # noqa: PLC0415

        return build_app(self._front)


def _replica_name() -> str:
    context = serve.get_replica_context()
    return f"{context.deployment}-{context.replica_tag}"
