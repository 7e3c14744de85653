"""The other processes of the service, as a front sees them: Serve's handles, with our errors instead of Ray's."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from pipelines.cluster import purpose_of
from pipelines.failures import RequestError
from pipelines.model import Explained, ModelFacts, OtherCrop, Problem, Scored
from pipelines.monitor import Report
from radet.crop import CropPolicy

if TYPE_CHECKING:
    from radet.images import Pixels

T = TypeVar("T")

_TRIES = 3
_PAUSE_S = 0.2
_MONITOR_TIMEOUT_S = 5.0


class ScorerClient(Protocol):
    """Scoring is safe to repeat, so whoever implements this may try again."""

    async def score(self, crop: "Pixels", policy: CropPolicy, *, patient: bool = False) -> Scored | OtherCrop:
        """`patient`: of a batch, whose items wait, for other pictures too."""
        ...

    async def explain(
        self,
        crop: "Pixels",
        policy: CropPolicy,
        facts: dict[str, Any],
        id: str | None,  # noqa: A002
    ) -> Explained | OtherCrop: ...


class MonitorClient(Protocol):
    """May be away: then TimeoutError or RayError."""

    async def report(self, report: Report) -> None: ...
    async def models(self) -> list[ModelFacts]: ...
    async def problems(self, within_s: float | None = None) -> list[Problem]: ...
    async def text(self) -> bytes: ...


class RemoteScorer:
    """A scorer that dies costs a picture one more try; a full one refuses it at once."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def score(self, crop: "Pixels", policy: CropPolicy, *, patient: bool = False) -> Scored | OtherCrop:  # noqa: ARG002
        return await _insist(lambda: self._handle.score.remote(crop, policy))

    async def explain(
        self,
        crop: "Pixels",
        policy: CropPolicy,
        facts: dict[str, Any],
        id: str | None,  # noqa: A002
    ) -> Explained | OtherCrop:
        return await _insist(lambda: self._handle.explain.remote(crop, policy, facts, id))


class RemoteMonitor:
    """The monitor by its handle: a MonitorClient that waits a few seconds for it, no longer."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def report(self, report: Report) -> None:
        await asyncio.wait_for(self._handle.report.remote(report), _MONITOR_TIMEOUT_S)

    async def models(self) -> list[ModelFacts]:
        found: list[ModelFacts] = await asyncio.wait_for(self._handle.models.remote(), _MONITOR_TIMEOUT_S)
        return found

    async def problems(self, within_s: float | None = None) -> list[Problem]:
        found: list[Problem] = await asyncio.wait_for(self._handle.problems.remote(within_s), _MONITOR_TIMEOUT_S)
        return found

    async def text(self) -> bytes:
        found: bytes = await asyncio.wait_for(self._handle.text.remote(), _MONITOR_TIMEOUT_S)
        return found


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    for left in reversed(range(_TRIES)):
        try:
            return await call()
        except BackPressureError:
            raise RequestError("overloaded", "the queue is full: try again soon") from None
        except DeploymentUnavailableError:
            raise RequestError("not_ready", "no detector is running: see /readyz") from None
        except (RayActorError, ReplicaUnavailableError) as error:
            if not left:
                raise RequestError("overloaded", "a scorer died, and so did the next") from error
        except TaskCancelledError:
            raise RequestError("overloaded", "the picture's scoring was called off") from None
        except (RayTaskError, RayError) as error:
            cause = purpose_of(error)
            raise (error if cause is None else cause) from None
        await asyncio.sleep(_PAUSE_S)
    raise AssertionError
