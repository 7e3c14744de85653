"""Who may ask, and how often: API keys, known by their hash only, and a rate limit for each.

RADET_API_KEYS        NAME:SHA256[:IMAGES_PER_MINUTE], separated by commas or line ends
RADET_API_KEYS_FILE   a file with such lines; `#` starts a comment; read again when it changes

A key is a long random text (`openssl rand -hex 24`), so a plain SHA-256 keeps it: nobody can guess what was hashed.
With neither variable set, nobody needs a key; one that is set and holds none is an error: a secret that did not arrive
must not open the door.
"""

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.failures import RequestError
from radet.errors import ConfigError, RadetError

#: Codes of pictures that the service could not take.
UNTAKEN = frozenset({"overloaded", "not_ready"})

_log = logging.getLogger("ray.serve")
_LOOK_EVERY_S = 2.0
_OF_NOTHING = hashlib.sha256().hexdigest()  # what `printf %s "$KEY" | sha256sum` prints where KEY is not set
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<sha256>[0-9a-fA-F]{64})(:(?P<rate>[0-9]+(\.[0-9]+)?))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A known key. `rate`: images a minute; None: as the settings say."""

    name: str
    rate: float | None


#: Everybody, where no keys are configured.
ANYONE = Caller(name="-", rate=None)


class Doorkeeper:
    """Knows the keys and counts. Not thread-safe: it belongs to one event loop."""

    def __init__(self, *, fronts: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """`fronts` processes share each limit. Raises ConfigError for keys that cannot be read: an unreadable list
        must not open the door."""
        self.fronts = fronts
        self._clock = clock
        self._own: dict[str, Caller] = {}
        self._file = ""
        self._stamp: tuple[int, int] | None = None
        self._looked = clock()
        self._listed: dict[str, Caller] = {}
        self._complaint = ""
        if (keys := os.environ.get("RADET_API_KEYS")) is not None:
            self._own = _parse(keys, "RADET_API_KEYS")
        if (file := os.environ.get("RADET_API_KEYS_FILE")) is not None:
            if not file:
                raise ConfigError("RADET_API_KEYS_FILE is set, and names no file: unset it, or name one")
            self._file = file
            self._read_file()
        self._buckets: dict[str, tuple[float, float]] = {}  # name -> (tokens left, when)

    @property
    def closed(self) -> bool:
        """Whether a key is needed."""
        return bool(self._own or self._file)

    def admit(self, presented: str | None) -> Caller:
        """Who holds this key. Raises RequestError("unauthorized")."""
        if not self.closed:
            return ANYONE
        self._refresh()
        digest = hashlib.sha256(presented.encode()).hexdigest() if presented else ""
        caller = self._own.get(digest) or self._listed.get(digest)
        if caller is None:
            raise RequestError("unauthorized", "give a known API key as `Authorization: Bearer KEY`")
        return caller

    def spend(self, caller: Caller, images: int, default_rate: float | None) -> None:
        """Count images. A minute's worth may come at once, one at least. Raises RequestError("rate_limited")."""
        rate = caller.rate if caller.rate is not None else default_rate
        if rate is None or caller is ANYONE:
            return
        # A process's part may be less than a picture a minute: it still has to let one pass now and then.
        a_minute, now = rate / self.fronts, self._clock()
        most = max(1.0, a_minute)
        left, then = self._buckets.get(caller.name, (most, now))
        left = min(most, left + (now - then) * a_minute / 60)
        # A batch larger than a minute's worth passes when the bucket is full, and leaves a debt.
        need = min(float(images), most)
        if left < need:
            self._buckets[caller.name] = (left, now)
            wait_s = (need - left) * 60 / a_minute
            raise RequestError("rate_limited", f"over {rate:g} images a minute", retry_after_s=wait_s)
        self._buckets[caller.name] = (left - images, now)

    def give_back(self, caller: Caller, images: int = 1) -> None:
        """What was counted for pictures that the service could not take: they will be sent again."""
        if caller.name in self._buckets:
            left, then = self._buckets[caller.name]
            self._buckets[caller.name] = (left + images, then)

    @contextmanager
    def spending(self, caller: Caller, images: int, default_rate: float | None) -> Iterator[None]:
        """As `spend`, around the work on them; given back where that ends with one of UNTAKEN."""
        self.spend(caller, images, default_rate)
        try:
            yield
        except RadetError as error:
            if error.code in UNTAKEN:
                self.give_back(caller, images)
            raise

    def _refresh(self) -> None:
        if not self._file or self._clock() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = self._clock()
        try:
            self._read_file()
            self._complaint = ""
        except ConfigError as error:
            # A list that is being rewritten, or is gone: the keys that were good stay good.
            if error.message != self._complaint:
                self._complaint = error.message
                _log.warning("%s; the keys before stay good", error.message)

    def _read_file(self) -> None:
        try:
            status = os.stat(self._file)
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            text = Path(self._file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"RADET_API_KEYS_FILE: {self._file} cannot be read: {error}") from None
        self._listed, self._stamp = _parse(text, self._file), stamp


def _parse(text: str, where: str) -> dict[str, Caller]:
    """The entries by their hash. Raises ConfigError, where there are none, too."""
    callers = {}
    for number, line in enumerate(re.split(r"[,\n]", text), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        found = _LINE.fullmatch(entry)
        if found is None:  # the entry is not shown: somebody may have written the key itself
            raise ConfigError(f"{where}, entry {number}: write NAME:SHA256 or NAME:SHA256:IMAGES_PER_MINUTE")
        rate = None if found["rate"] is None else float(found["rate"])
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(
                f"{where}, entry {number}: IMAGES_PER_MINUTE must be above 0; leave a key out to shut it out"
            )
        digest = found["sha256"].lower()
        if digest == _OF_NOTHING:
            raise ConfigError(f"{where}, entry {number}: that is the hash of nothing: hash the key itself")
        callers[digest] = Caller(name=found["name"], rate=rate)
    if not callers:
        raise ConfigError(f"{where} holds no key: write NAME:SHA256 or NAME:SHA256:IMAGES_PER_MINUTE")
    return callers
