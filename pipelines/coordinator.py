"""The one actor of a run that knows which inputs there are: lists the source, answers what is new, commits at the end.

It lives on the driver's node and dies with the run. Shards are spooled on its disk and numbered, so that a task which
asks again gets the same ones, and listing never waits for scoring.
"""

import itertools
import json
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.commit import Commit
from pipelines.index import Counts, Index, digest
from pipelines.items import Entry, Shard, version_digest
from pipelines.ledger import Ledger
from pipelines.sources import Source, open_source
from pipelines.storage import open_folder

_LISTED_AT_ONCE = 1000
_POLL_S = 0.2
_DEATHS = 2  # one may have been a node's


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run is asked to do, as far as inputs and output are concerned. `lease`: the id of the one it holds."""

    run: str
    src: str | tuple[str, ...]
    out: str
    model_id: str
    block: int  # inputs per staged block: what a crash can cost a worker
    ids: str | None = None
    column: str | None = None
    limit: int | None = None
    allow_http: bool = False
    rescore: bool = False
    lease: str = ""


class Progress(NamedTuple):
    """How far the listing is."""

    counts: Counts
    ahead: int  # inputs that are listed, of which it is not known yet whether they are done
    listing: bool  # still going on, or there are archives whose inputs nobody has counted
    ignored: dict[str, int]  # files that are no inputs, by suffix


class Coordinator:
    """Becomes a Ray actor in pipelines.score; nothing here knows of Ray."""

    def __init__(self, request: Request) -> None:
        # Nothing that can fail: an actor that dies in its constructor cannot say why.
        self._request = request
        self._ledger = Ledger(open_folder(request.out), model_id=request.model_id, rescore=request.rescore)
        # Its name goes at once, its bytes when the file is closed: however this process ends, nothing is left behind.
        with tempfile.TemporaryDirectory(prefix="radet-index-") as scratch:
            self._index = Index(Path(scratch) / "index.sqlite", limit=request.limit)
        self._source: Source | None = None
        self._shards = 0
        self._finished = threading.Event()
        self._listed_more = threading.Condition()
        self._failure: BaseException | None = None
        self._daring = threading.Lock()
        self._dared: dict[int, bytes] = {}
        self._deaths: Counter[bytes] = Counter()

    def start(self) -> dict[str, int]:
        """Tidy the output, take up what is done, and begin to list."""
        request = self._request
        self._source = open_source(
            request.src, ids=request.ids, column=request.column, allow_http=request.allow_http, but=request.out
        )
        orphans = self._ledger.clean()
        self._ledger.fill(self._index)
        staged = self._index.expected
        threading.Thread(target=self._list, args=(self._source,), daemon=True, name="listing").start()
        return {"orphans_removed": orphans, "staged": staged}

    def shards(self, first: int, count: int) -> list[tuple[int, str]]:
        """Up to `count` shards from number `first` on; waits for the listing; an empty answer is the end."""
        while True:
            finished = self._finished.is_set()  # before the look, so that the last shard is not missed
            payloads = self._index.shards(first, count)
            if self._failure is not None:
                raise self._failure
            if payloads or finished:
                return list(enumerate(payloads, first))
            with self._listed_more:
                self._listed_more.wait(_POLL_S)

    def begin(self, shard: int) -> int:
        """How many tasks have begun to read this shard before: each process that died was followed by another one."""
        with self._daring:
            if (key := self._dared.pop(shard, None)) is not None:
                self._deaths[key] += 1
        return self._index.begin(shard)

    def dare(self, shard: int, key: bytes | None) -> bool:
        """Asked before each step, named by `key`, of a shard whose readers die, and with None at the shard's end.

        False for a step that two readers have died of: leave it out.
        """
        with self._daring:
            self._dared.pop(shard, None)
            if key is not None:
                self._dared[shard] = key
            return key is None or self._deaths[key] < _DEATHS

    def wants(self, shard: int, first: int) -> bool:
        """Whether inputs of a shard, from number `first` on, may still be new to this run: a limit ends that."""
        return self._index.wants((shard + 1 << 32) + first, shard + 2 << 32)

    def admit(self, shard: int, first: int, inputs: Sequence[tuple[bytes, bytes | None]]) -> list[bool]:
        """For each (key, version) of a shard's inputs, from number `first` on: does this run have to do it?"""
        self._index.meet(shard, first + len(inputs))
        return self._index.admit((shard + 1 << 32) + first, inputs)

    def claim(self, inputs: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """For each (sha256, key): SCORED, which is to be decoded and scored, JOIN or SAME (pipelines.schema)."""
        return self._index.claim(inputs)

    def finish_container(self, name: str, version: str, inputs: int) -> None:
        """A container was read to its end: as long as its version stays, later runs need not open it."""
        if not self._index.put_off:
            self._index.finish_container(digest("container", name), digest(version), inputs)

    def progress(self) -> Progress:
        """How far the listing is now."""
        return Progress(
            counts=self._index.counts(),
            ahead=self._index.ahead,
            listing=not self._finished.is_set() or self._index.uncounted,
            ignored=dict(self._source.ignored) if self._source else {},
        )

    def commit(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The manifest of the run, now committed.

        Raises:
            IncompleteError: rows and inputs do not add up; nothing is committed.
            ConfigError: another run has taken over the output; nothing is committed.
        """
        return Commit(self._ledger, self._index, self._request.run, self._request.lease).write(facts)

    def _list(self, source: Source) -> None:
        try:
            for shard in itertools.chain(self._file_shards(source), self._container_shards(source)):
                self._index.add_shard(self._shards, json.dumps(shard), shard.inputs)
                self._shards += 1
                with self._listed_more:
                    self._listed_more.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for shards
            traceback.print_exc()
            self._failure = error
        self._finished.set()

    def _file_shards(self, source: Source) -> Iterator[Shard]:
        """Entries whose versions are known are admitted while listing: what is done costs no task."""
        pending: list[Entry] = []
        entries, place = source.entries(), 0
        while batch := list(itertools.islice(entries, _LISTED_AT_ONCE)):
            new = self._index.admit(place, [(entry.key, version_digest(entry.version)) for entry in batch])
            pending += itertools.compress(batch, new)
            place += len(batch)
            while len(pending) >= self._request.block:
                yield Shard("files", {"entries": pending[: self._request.block]})
                pending = pending[self._request.block :]
            if self._index.limit_reached:
                break
        if pending:
            yield Shard("files", {"entries": pending})

    def _container_shards(self, source: Source) -> Iterator[Shard]:
        for shard in source.shards(self._request.block):
            if self._index.limit_reached:
                return
            name, version = shard.container
            if version is None or not self._index.skip_container(digest("container", name), digest(version)):
                yield shard
