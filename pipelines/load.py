"""The CPU stage: a shard in, batches of crops out. Fetch, decode and crop happen here and nowhere else in a run.

Bytes and full-size pictures never leave the task; what travels is a uint8 crop per image. A bad image is a row.
"""

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol

import pyarrow as pa

from pipelines import parquet, tars
from pipelines.fetch import Fetcher
from pipelines.items import Item, Shard, display, version_digest
from pipelines.process import tune
from pipelines.schema import LOADED, SCORED, pack
from radet.crop import CropPolicy
from radet.errors import FetchError, ImageError
from radet.rows import see

_THREADS = 16  # reads in flight per task
_GROUP = 16  # images fetched, then decoded, together ...
_GROUP_BYTES = 64 << 20  # ... or fewer, if they are large
_UNKNOWN_SIZE = 4 << 20


class Desk(Protocol):
    """What the stage asks of the coordinator."""

    def admit(self, shard: int, first: int, inputs: list[tuple[bytes, bytes | None]]) -> list[bool]: ...
    def claim(self, inputs: list[tuple[bytes, bytes]]) -> list[int]: ...
    def finish_container(self, name: str, version: str, inputs: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Reads shards for one run. Stateless between shards: any worker can take any of them, again if need be."""

    desk: Desk
    policy: CropPolicy
    allow_http: bool
    block: int

    def load(self, number: int, payload: str) -> Iterator[pa.Table]:
        """The new inputs of a shard, as LOADED tables packed into one row each."""
        tune()
        shard = Shard(*json.loads(payload))
        seen, whole = 0, True
        for items in self._items(shard):
            whole = whole and not any(item.rest for item in items)
            new = items if shard.kind == "files" else self._admitted(number, seen, shard, items)
            seen += len(items)
            if new:
                yield pack(self._load_batch(new))
        name, version = shard.container
        if version is not None and whole:
            self.desk.finish_container(name, version, seen)

    def _items(self, shard: Shard) -> Iterator[list[Item]]:
        if shard.kind == "tar":
            return tars.read_items(shard.body, self.block)
        if shard.kind == "parquet":
            return parquet.read_items(shard.body, self.block)
        return iter([[Item(entry) for entry in shard.entries()]])

    def _admitted(self, number: int, first: int, shard: Shard, items: list[Item]) -> list[Item]:
        if shard.names_uris:
            items = list(_pool().map(self._look, items))
        keys = [(item.entry.key, version_digest(item.entry.version)) for item in items]
        return list(itertools.compress(items, self.desk.admit(number, first, keys)))

    def _look(self, item: Item) -> Item:
        """Version and size, so that an input that is done need not be fetched."""
        try:
            source = _fetcher(self.allow_http).look(item.entry.location)
        except (FetchError, ImageError) as error:
            return Item(item.entry, error=error)
        return Item(item.entry._replace(version=source.version, size=source.size))

    def _load_batch(self, items: list[Item]) -> pa.Table:
        rows: list[dict[str, Any]] = []
        groups = _groups(items)
        ahead = [_pool().submit(self._fetch, item) for item in next(groups)]
        while ahead:
            fetched = [future.result() for future in ahead]
            ahead = [_pool().submit(self._fetch, item) for item in next(groups, [])]
            rows += self._decode_group(fetched)
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

    def _decode_group(self, fetched: list[tuple[Item, str | None, float]]) -> Iterator[dict[str, Any]]:
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
            elif row["_kind"] == SCORED:
                assert item.data is not None
                seen = see(item.data, self.policy)
                # As bytes: what pyarrow (26) converts from a memoryview it never lets go of.
                row |= seen.facts | {"crop": None if seen.crop is None else seen.crop.tobytes()}
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
