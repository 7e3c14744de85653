"""Front and scorer in one process: what a replica is on CPUs."""

import asyncio
from contextlib import suppress
from typing import Any

from pipelines.front import Front
from pipelines.local import LocalScorer
from pipelines.model import ModelFacts, OtherCrop, Scored
from pipelines.remote import MonitorClient, ScorerClient
from pipelines.replica import Scorer
from pipelines.settings import ServiceSettings
from radet.crop import CropPolicy
from radet.errors import ConfigError, ModelError, RadetError
from radet.images import Pixels

_AGAIN_S = 10.0


class OwnFront(Front):
    """A front with a scorer in its own process: what that one scores with, it need not ask the monitor for."""

    def __init__(self, own: Scorer, scorer: LocalScorer, monitor: MonitorClient, **options: Any) -> None:
        super().__init__(scorer, monitor, **options)
        self._own = own

    async def facts(self) -> ModelFacts:
        return self._own.facts or await super().facts()


class Standalone:
    """A replica with a front and a scorer. Where it cannot score, for want of a detector or of valid settings, and no
    other replica can either, it stays up: /readyz says why, and it tries again."""

    def __init__(
        self,
        model: str,
        monitor: MonitorClient,
        peers: ScorerClient | None,
        *,
        replica: str,
        most: int,
        allow_url: bool = False,
        threads: int = 1,
    ) -> None:
        """`peers`: all replicas of the service, where there may be several. `most`: requests that Serve lets in."""
        self._monitor = monitor
        self._scorer = Scorer(model, device="cpu", most=most, replica=f"{replica}-scorer", tell=monitor.report)
        self._local = LocalScorer(self._scorer, peers)
        self.front = OwnFront(
            self._scorer, self._local, monitor, replica=replica, allow_url=allow_url, fronts=None, threads=threads
        )
        self._trying: asyncio.Task[None] | None = None

    async def reconfigure(self, config: dict[str, Any] | None) -> None:
        """Take new settings, after loading the detector the first time.

        Where it scores already, raises ConfigError and changes nothing. Where it does not but other replicas do, raises
        ConfigError or ModelError, and Serve keeps those. Where nobody scores it raises nothing, and tries again later.
        """
        if self._trying is not None:
            self._trying.cancel()
        try:
            await self._take(config)
        except (ConfigError, ModelError):
            if self._scorer.loaded or await self._others():
                raise
            self._trying = asyncio.create_task(self._keep_trying(config))
        self.front.start()

    async def _take(self, config: dict[str, Any] | None) -> None:
        before = self.front.settings
        try:
            settings: ServiceSettings = ServiceSettings.read(config)
            self.front.reconfigure(settings.front.model_dump())
            await self._scorer.reconfigure(settings.scorer.model_dump())
        except ConfigError as error:
            await self._scorer.failed(error)
            self.front.reconfigure(before.model_dump())
            raise

    async def take(self, crop: Pixels, policy: CropPolicy) -> Scored | OtherCrop:
        """A picture of another replica's batch."""
        return await self._local.take(crop, policy)

    async def _others(self) -> bool:
        try:
            return bool(await self._monitor.models())
        except Exception:  # noqa: BLE001 - away, for whatever reason: there may be others
            return True

    async def _keep_trying(self, config: dict[str, Any] | None) -> None:
        while not self._scorer.loaded:
            await asyncio.sleep(_AGAIN_S)
            with suppress(RadetError):  # it is told to the monitor each time
                await self._take(config)
