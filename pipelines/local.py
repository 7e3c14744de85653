"""A front's own scorer, in its own process: no call, and no crop that travels. On CPUs, where a scorer takes one core.

Single pictures are scored here or refused. A batch's items wait, and where this scorer has its fill, go to the other
replicas: a batch takes as many of them as there are.
"""

from typing import TYPE_CHECKING, Any

from pipelines.failures import RequestError
from pipelines.model import Explained, OtherCrop, Scored
from pipelines.remote import ScorerClient
from pipelines.replica import Scorer
from radet.crop import CropPolicy

if TYPE_CHECKING:
    from radet.images import Pixels

_BATCHES = 3  # single pictures are taken in for so many: one that is computed, and two that wait


class LocalScorer:
    """A ScorerClient (pipelines.remote) of the scorer in this process."""

    def __init__(self, scorer: Scorer, peers: ScorerClient | None) -> None:
        """`peers`: all replicas, this one among them, or None where this one is alone."""
        self._scorer, self._peers = scorer, peers
        self._single = self._patient = 0

    async def score(self, crop: "Pixels", policy: CropPolicy, *, patient: bool = False) -> Scored | OtherCrop:
        """As `Scorer.score`. Raises RequestError("overloaded") for a single picture too many."""
        if patient:
            if self._peers is not None and self._single + self._patient >= self._most:
                return await self._peers.score(crop, policy, patient=True)
            return await self.take(crop, policy)
        if self._single >= self._most:
            raise RequestError("overloaded", "the queue is full: try again soon")
        self._single += 1
        try:
            return await self._scorer.score(crop, policy)
        finally:
            self._single -= 1

    async def take(self, crop: "Pixels", policy: CropPolicy) -> Scored | OtherCrop:
        """A picture of a batch, of this front or of another one; it waits for its turn here."""
        self._patient += 1
        try:
            return await self._scorer.score(crop, policy, patient=True)
        finally:
            self._patient -= 1

    async def explain(
        self,
        crop: "Pixels",
        policy: CropPolicy,
        facts: dict[str, Any],
        id: str | None,  # noqa: A002
    ) -> Explained | OtherCrop:
        """As `Scorer.explain`: it stays here."""
        return await self._scorer.explain(crop, policy, facts, id)

    @property
    def _most(self) -> int:
        return _BATCHES * self._scorer.batch_size
