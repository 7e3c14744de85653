"""The service on Ray Serve: fronts (decode, answer), scorers (one detector each, autoscaled), one monitor.

    proxy --> Service                   on CPUs: front and scorer in one process, which saves a call
    proxy --> Front --> Scorer          on GPUs, which several fronts decode for

`serve deploy cluster/serve.yaml` (or serve-gpu.yaml), or `radet serve`. Overload is refused: what is accepted waits for
a bounded number of pictures.
"""

import asyncio
import io
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client  # nothing public tells where Serve listens
from ray.serve.exceptions import RayServeException

from pipelines.keeping import Keeping
from pipelines.model import Explained, ModelFacts, OtherCrop, Problem, Scored
from pipelines.monitor import Monitor, Report
from pipelines.process import WORKER_ENV
from pipelines.readiness import replaces_the_last, until_ready
from pipelines.remote import RemoteMonitor, RemoteScorer
from pipelines.replica import Scorer
from pipelines.settings import FrontSettings, ScorerSettings, ServiceSettings
from radet.crop import CropPolicy
from radet.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipelines.standalone import Standalone
    from radet.images import Pixels

APP = "radet"
_QUIET = {"enable_access_log": False, "log_level": "WARNING"}  # what was asked, and by whom, is not for logs
_RETRY_AFTER_S = 1.0
_SHUTDOWN_S = 30.0
_LOADS = 2  # a checkpoint that cannot be loaded twice cannot be loaded
_AT_ONCE = 512  # requests in a front, which refuses by itself, in JSON: this holds where even that is too slow
_REFUSAL = {"status_code": 503, "retry_after_s": _RETRY_AFTER_S}
# Replacements start before what they replace stops: without it, a rollout of one replica is an outage.
_ORDERLY: dict[str, Any] = {
    "health_check_period_s": 5.0,
    "graceful_shutdown_timeout_s": _SHUTDOWN_S,
    "graceful_shutdown_wait_loop_s": 0.5,
    "max_surge_percent": 100,
}
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
    fronts: Annotated[int, Field(ge=0)] = 0  # processes before the scorers; 0: none on CPUs, one on GPUs
    front_cpus: Annotated[float, Field(ge=0)] = 0.0  # decode threads of such a front; 0: half of the machine's cores
    bound: bool = False  # each replica on CPUs keeps to a core: where they are as many, and nobody else counts on those
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
    def apart(self) -> bool:
        """Whether fronts are processes of their own."""
        return bool(self.gpus or self.fronts)

    @property
    def scoring(self) -> ScorerSettings:
        """On a CPU pictures are computed and answered one by one: the size says how many wait where there are too
        many."""
        return self.scorer or ScorerSettings(max_batch_size=32 if self.gpus else 2)


def fronts_beside_gpus(cores: int, scorers: int) -> dict[str, Any]:
    """Of ServeArgs, on a machine with so many cores: half of them decode, two a front, and each scorer keeps one."""
    fronts = min(cores // 4, (cores - scorers) // 2)
    return {"fronts": fronts, "front_cpus": 2.0} if fronts > 0 else {}


def require_room(args: ServeArgs, resources: dict[str, float]) -> None:
    """Raises ConfigError where what has to be there at first does not fit on a machine to which nobody adds another:
    Serve would wait for ever."""
    scorers = args.min_replicas
    fronts = max(1, args.fronts) if args.apart else 0
    wanted = {"GPU": scorers * args.gpus, "CPU": scorers * args.cpus + fronts * args.front_cpus}
    for kind, count in wanted.items():
        if count > (found := resources.get(kind, 0.0)):
            many = f"{scorers} scorers want" if scorers > 1 else "a scorer wants"
            raise ConfigError(f"{many} {count:g} {kind}{'s' * (count != 1)}, and Ray finds {found:g} here")


def application(args: ServeArgs) -> Application:
    """What `serve deploy` builds: `import_path: pipelines.serve:application`."""
    monitor = serve.deployment(
        _Monitor,
        name="Monitor",
        ray_actor_options=_actor(args) | {"num_cpus": 0},
        max_ongoing_requests=256,
        max_queued_requests=1024,
        graceful_shutdown_timeout_s=2.0,
    ).bind()
    return _apart(args, monitor) if args.apart else _together(args, monitor)


def _together(args: ServeArgs, monitor: Application) -> Application:
    ready = serve.deployment(
        _Ready,
        name="Ready",
        ray_actor_options=_actor(args) | {"num_cpus": 0},
        user_config={"model": args.model},
        max_constructor_retry_count=_LOADS,
        graceful_shutdown_timeout_s=2.0,
    ).bind(monitor)
    service: Application = serve.deployment(
        serve.ingress()(_Service),
        name="Service",
        ray_actor_options=_actor(args) | {"num_cpus": args.cpus},
        max_ongoing_requests=_AT_ONCE,
        max_queued_requests=_AT_ONCE,
        backpressure_config=_REFUSAL,
        user_config=ServiceSettings(front=args.front, scorer=args.scoring).model_dump(),
        max_constructor_retry_count=_LOADS,
        **_scaling(args),
        **_ORDERLY,
    ).bind(
        args.model,
        monitor,
        ready,
        allow_url=args.allow_url,
        cpus=args.cpus,
        alone=args.max_replicas == 1,
        bound=args.bound,
    )
    return service


def _apart(args: ServeArgs, monitor: Application) -> Application:
    batch = args.scoring.max_batch_size
    scorer = serve.deployment(
        _Scorer,
        name="Scorer",
        ray_actor_options=_actor(args) | {"num_cpus": args.cpus, "num_gpus": args.gpus},
        # Twice a batch: one is computed while the next one forms.
        max_ongoing_requests=2 * batch,
        max_queued_requests=2 * batch,
        backpressure_config=_REFUSAL,
        user_config=args.scoring.model_dump(),
        max_constructor_retry_count=_LOADS,
        **_scaling(args),
        **_ORDERLY,
    ).bind(args.model, device="cuda" if args.gpus else "cpu", most=2 * batch, monitor=monitor)
    front: Application = serve.deployment(
        serve.ingress()(_Front),
        name="Front",
        ray_actor_options=_actor(args) | {"num_cpus": args.front_cpus},
        num_replicas=max(1, args.fronts),
        max_ongoing_requests=_AT_ONCE,
        max_queued_requests=_AT_ONCE,
        backpressure_config=_REFUSAL,
        user_config=args.front.model_dump(),
        **_ORDERLY,
    ).bind(scorer, monitor, allow_url=args.allow_url, fronts=max(1, args.fronts), cpus=args.front_cpus)
    return front


def _actor(args: ServeArgs) -> dict[str, Any]:
    return {"runtime_env": {"env_vars": WORKER_ENV | _REPLICA_ENV | args.env}}


def _scaling(args: ServeArgs) -> dict[str, Any]:
    if args.min_replicas == args.max_replicas:  # counting requests would take 2 to 5 % of a core
        return {"num_replicas": args.min_replicas}
    scaling = {
        "min_replicas": args.min_replicas,
        "max_replicas": args.max_replicas,
        "target_ongoing_requests": args.scoring.max_batch_size,
        "upscale_delay_s": args.upscale_delay_s,
        "downscale_delay_s": args.downscale_delay_s,
        "metrics_interval_s": 1.0,
        "look_back_period_s": 5.0,
    }
    return {"autoscaling_config": scaling}


def require_place(host: str, port: int) -> None:
    """Raises ConfigError where Serve runs on the connected cluster already, and has no place for the service."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    there = client.http_config
    if (there.host, there.port) != (host, port):
        mend = f"give --host {there.host} --port {there.port}, or take another cluster"
        raise ConfigError(f"Serve runs on this cluster already, at {there.host}:{there.port}: {mend}")
    for name, app in client.get_serve_details()["applications"].items():
        if name == APP:  # two commands would end each other's
            mend = "end its command, or where that is gone all of Serve by `serve shutdown`"
            raise ConfigError(f"a service of radet runs on this cluster already: {mend}")
        if app["route_prefix"] == "/":
            raise ConfigError(f"the application {name!r} of this cluster has the route / that the service needs")


def start(args: ServeArgs, *, host: str, port: int) -> None:
    """Start the service on the connected cluster; returns when it is deployed. Raises RuntimeError where it cannot be:
    `problems` then knows more."""
    serve.start(
        proxy_location="HeadOnly" if host.startswith("127.") else "EveryNode",
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=120.0),
        logging_config=_QUIET,
    )
    serve.run(application(args), name=APP, route_prefix="/", logging_config=_QUIET)


def stop(*, alone: bool = False) -> None:
    """Let requests under way finish, then end the service. `alone`: and Serve with it, where nobody else uses it."""
    with redirect_stdout(io.StringIO()):  # Ray says there that the controller is dead: it has killed it
        for step in (_drain, lambda: serve.delete(APP)):
            with suppress(RayServeException, RayError, TimeoutError, KeyError):  # it does not run, or no more
                step()
        if alone:
            serve.shutdown()


def _drain() -> None:
    """Fronts first: Serve would end them and the scorers that they wait for at once, and proxies before either."""
    handle = serve.get_app_handle(APP)
    states = serve.status().applications[APP].deployments[handle.deployment_name].replica_states
    if states.get("RUNNING"):
        handle.broadcast("drain", 2 * _SHUTDOWN_S).results(timeout_s=_SHUTDOWN_S)


def problems(timeout_s: float = 5.0) -> list[Problem]:
    """Why scorers could not start, as the monitor knows it; [] where it does not run either."""
    try:
        handle = serve.get_deployment_handle("Monitor", APP)
        found: list[Problem] = handle.problems.remote().result(timeout_s=timeout_s)
    except (KeyError, RayServeException, RayError, TimeoutError):  # KeyError: it was never deployed
        return []
    return found


class _Monitor:
    def __init__(self) -> None:
        self._monitor = Monitor()

    async def report(self, report: Report) -> None:
        self._monitor.report(report)

    async def models(self) -> list[ModelFacts]:
        return self._monitor.models()

    async def problems(self, within_s: float | None = None) -> list[Problem]:
        return self._monitor.problems(within_s)

    async def text(self) -> bytes:
        return self._monitor.text()


class _Ready:
    """Fails where no detector can be loaded; Serve then calls the application failed."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = RemoteMonitor(monitor)

    async def reconfigure(self, config: dict[str, Any]) -> None:  # noqa: ARG002 - a new model is a new question
        await until_ready(self._monitor)


class _Service:
    _standalone: "Standalone"

    def __init__(
        self,
        model: str,
        monitor: Any,
        ready: Any,  # noqa: ARG002 - it belongs to the application
        *,
        allow_url: bool,
        cpus: float,
        alone: bool,
        bound: bool,
    ) -> None:
        from pipelines.front import decode_threads  # noqa: PLC0415 - torch, which the driver does without
        from pipelines.process import keep_to_core, tune  # noqa: PLC0415
        from pipelines.standalone import Standalone  # noqa: PLC0415

        context = serve.get_replica_context()
        if bound:
            keep_to_core(context.rank.local_rank)
        tune()
        self._standalone = Standalone(
            model,
            RemoteMonitor(monitor),
            None if alone else RemoteScorer(serve.get_deployment_handle(context.deployment, context.app_name)),
            replica=_replica_name(),
            most=_AT_ONCE,
            allow_url=allow_url,
            threads=decode_threads(max(1.0, cpus)),
        )
        self._keeping = Keeping(self._standalone.front.meters)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        with self._keeping.settings():
            await self._standalone.reconfigure(config)

    async def drain(self, seconds: float) -> None:
        await self._standalone.front.drain(seconds)

    async def score(self, crop: "Pixels", policy: CropPolicy) -> Scored | OtherCrop:
        return await self._standalone.take(crop, policy)

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from pipelines.routes import build_app  # noqa: PLC0415

        return build_app(self._standalone.front)


class _Scorer:
    def __init__(self, model: str, *, device: str, most: int, monitor: Any) -> None:
        tell = RemoteMonitor(monitor).report
        self._scorer = Scorer(model, device=device, most=most, replica=_replica_name(), tell=tell)
        self._keeping = Keeping(self._scorer.meters)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        with self._keeping.settings():
            await self._scorer.reconfigure(config)

    async def score(self, crop: "Pixels", policy: CropPolicy) -> Scored | OtherCrop:
        return await self._scorer.score(crop, policy)

    async def explain(self, crop: "Pixels", policy: CropPolicy, *more: Any) -> Explained | OtherCrop:
        return await self._scorer.explain(crop, policy, *more)


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
        self._keeping = Keeping(self._front.meters)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        with self._keeping.settings():
            try:
                self._front.reconfigure(config)
            except ConfigError as error:
                if self._keeping.has_settings or not await asyncio.to_thread(replaces_the_last):
                    raise
                self._front.close(error)
        self._front.start()

    async def drain(self, seconds: float) -> None:
        await self._front.drain(seconds)

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from pipelines.routes import build_app  # noqa: PLC0415

        return build_app(self._front)


def _replica_name() -> str:
    context = serve.get_replica_context()
    return f"{context.deployment}-{context.replica_tag}"
