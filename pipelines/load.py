"""The CPU stage: a shard in, batches of crops out. Fetch, decode and crop happen here and nowhere else in a run.

Bytes and full-size pictures never leave the task; what travels is a uint8 crop per image. A bad image is a row.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import degraded, parquet, tars
from pipelines.fetch import Fetcher
from pipelines.index import digest
from pipelines.items import Entry, Item, Shard, display, version_digest
from pipelines.process import tune
from pipelines.schema import LOADED, SCORED, pack
from radet.crop import CropPolicy
from radet.errors import FetchError, ImageError
from radet.images import Limits
from radet.rows import LIMITS, see

_THREADS = 16  # reads in flight per task
_GROUP = 16  # images fetched, then decoded, together ...
_GROUP_BYTES = 64 << 20  # ... or fewer, if they are large
_UNKNOWN_SIZE = 4 << 20
_DEATHS_BORNE = 3  # of processes that read a shard, before it is asked of which input they die

Dare = Callable[[bytes | None], bool]


class Desk(Protocol):
    """What the stage asks of the coordinator, whose methods (pipelines.coordinator) say what each of these means."""

    def begin(self, shard: int) -> int: ...
    def dare(self, shard: int, key: bytes | None) -> bool: ...
    def wants(self, shard: int, first: int) -> bool: ...
    def admit(self, shard: int, first: int, inputs: list[tuple[bytes, bytes | None]]) -> list[bool]: ...
    def claim(self, inputs: list[tuple[bytes, bytes]]) -> list[int]: ...
    def finish_container(self, name: str, version: str, inputs: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Reads shards for one run. Stateless between shards: any worker can take any of them, again if need be.

    `limited`: the run ends after so many inputs, so that a shard may not be wanted any more.
    """

    desk: Desk
    policy: CropPolicy
    allow_http: bool
    block: int
    limited: bool = False

    def load(self, number: int, payload: str) -> Iterator[pa.Table]:
        """The new inputs of a shard, as LOADED tables packed into one row each."""
        tune()
        shard = Shard(*json.loads(payload))
        careful = self.desk.begin(number) >= _DEATHS_BORNE
        dare = partial(self.desk.dare, number) if careful else None
        seen, whole = 0, True
        if self.limited and shard.kind != "files" and not self.desk.wants(number, 0):
            return
        for items in self._items(shard) if dare is None else self._dared_items(shard, dare):
            whole = whole and not any(item.rest for item in items)
            new = items if shard.kind == "files" else self._admitted(number, seen, shard, items)
            seen += len(items)
            if new:
                batch = self._load_batch(new, dare)
                whole = whole and not pc.any(batch["_retry"]).as_py()
                yield pack(batch)
            elif self.limited and not self.desk.wants(number, seen):
                whole = False
                break
        name, version = shard.container
        if version is not None and whole:
            self.desk.finish_container(name, version, seen)
        if dare is not None:
            dare(None)

    def _items(self, shard: Shard) -> Iterator[list[Item]]:
        if shard.kind == "tar":
            return tars.read_items(shard.body, self.block)
        if shard.kind == "parquet":
            return parquet.read_items(shard.body, self.block)
        return iter([shard.items()])

    def _dared_items(self, shard: Shard, dare: Dare) -> Iterator[list[Item]]:
        """As `_items`, where processes have died: a container that two died of reading ends in a row that says so."""
        name, version = shard.container
        batches = self._items(shard)
        while version is None or dare(digest("reading", name)):
            if (items := next(batches, None)) is None:
                return
            yield items
        place = shard.body["uri_of_file"]
        yield [Item(Entry(place, place, "", version), error=ImageError("corrupt", "what reads it dies of it"))]

    def _admitted(self, number: int, first: int, shard: Shard, items: list[Item]) -> list[Item]:
        if shard.kind == "uris":
            items = list(_pool().map(self._look, items))
        _, version = shard.container
        if version is not None:  # what lies in a container is as it was while that is
            for item in items:
                item.entry = item.entry._replace(version=version)
        keys = [(item.entry.key, version_digest(item.entry.version)) for item in items]
        return list(itertools.compress(items, self.desk.admit(number, first, keys)))

    def _look(self, item: Item) -> Item:
        """Version and size, so that an input that is done need not be fetched."""
        try:
            found = _fetcher(self.allow_http).look(item.entry.location)
        except (FetchError, ImageError) as error:
            return Item(item.entry, error=error)
        return Item(item.entry._replace(version=found.version, size=found.size))

    def _seen(self, item: Item) -> dict[str, Any]:
        assert item.data is not None
        # The original was held to the cap where it was read, and as a PNG it may be larger than that.
        made = degraded.split(item.entry.location) is not None
        try:
            seen = see(item.data, self.policy, Limits(max_bytes=len(item.data)) if made else LIMITS)
        except MemoryError:  # this machine's, at this moment
            return {"status": "unreachable", "error": "there is no room to decode it", "_retry": True}
        # As bytes: what pyarrow (26) converts from a memoryview it never lets go of.
        return seen.facts | {"crop": None if seen.crop is None else seen.crop.tobytes()}

    def _load_batch(self, items: list[Item], dare: Dare | None) -> pa.Table:
        rows: list[dict[str, Any]] = []
        groups = _groups(items)
        ahead = [_pool().submit(self._fetch, item) for item in next(groups)]
        while ahead:
            fetched = [future.result() for future in ahead]
            ahead = [_pool().submit(self._fetch, item) for item in next(groups, [])]
            rows += self._decode_group(fetched, dare)
        return pa.Table.from_pylist(rows, schema=LOADED)

    def _fetch(self, item: Item) -> tuple[Item, str | None, float]:
        """The item with its bytes or error, their sha256, and the seconds it took."""
        start = time.perf_counter()
        if item.data is None and item.error is None:
            try:
                item.data = _fetcher(self.allow_http).read(item.entry.location)
            except (FetchError, ImageError) as error:
                item.error = error
        content = None if item.data is None else sha256(item.data).hexdigest()
        return item, content, time.perf_counter() - start

    def _decode_group(
        self, fetched: list[tuple[Item, str | None, float]], dare: Dare | None
    ) -> Iterator[dict[str, Any]]:
        claims = [(bytes.fromhex(content), item.entry.key) for item, content, _ in fetched if content is not None]
        kinds = iter(self.desk.claim(claims))
        for item, content, seconds in fetched:
            row = {
                "id": item.entry.id,
                "uri": item.entry.uri,
                "sha256": content,
                "status": "ok",
                "_key": item.entry.key,
                "_version": version_digest(item.entry.version),
                "_kind": SCORED if content is None else next(kinds),
                "_retry": isinstance(item.error, FetchError) and item.error.transient,
                "fetch_s": seconds,
            }
            start = time.perf_counter()
            if item.error is not None:
                row |= {"status": item.error.code, "error": display(str(item.error))}
            elif row["_kind"] == SCORED and dare is not None and not dare(item.entry.key):
                row |= {"status": "corrupt", "error": "what decodes it dies of it"}
            elif row["_kind"] == SCORED:
                row |= self._seen(item)
            item.data = None
            yield row | {"decode_s": time.perf_counter() - start}


def _groups(items: list[Item]) -> Iterator[list[Item]]:
    """Neighbours that may be in memory together."""
    group: list[Item] = []
    total = 0
    for item in items:
        size = _UNKNOWN_SIZE if item.entry.size is None else item.entry.size
        if group and (len(group) == _GROUP or total + size > _GROUP_BYTES):
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    yield group


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")


@lru_cache(maxsize=2)
def _fetcher(allow_http: bool) -> Fetcher:
    return Fetcher(allow_http=allow_http)
