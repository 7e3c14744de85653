"""Which processes of a run compute: cores kept busy by role, sampled while the run goes on."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.memory import ROLES

_EVERY_S = 1.0


class BusyCores:
    """Samples this process, the driver, and all that it has started, from `start` on.

    A worker of Ray shows its task in its title, and none between two tasks: what it computes then counts for the task
    before. Ray's own processes go by the names of their programs.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # process -> CPU seconds when last seen
        self._roles: dict[int, str] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._begun = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="busy cores")

    def start(self) -> None:
        if not self._thread.is_alive():
            self._begun = time.perf_counter()
            self._sample()
            self._spent.clear()  # what was computed before
            self._thread.start()

    def stop(self) -> dict[str, float]:
        """Role -> cores, the busiest first."""
        self._stop.set()
        self._thread.join()
        self._sample()
        seconds = time.perf_counter() - self._begun
        busy = {role: round(spent / seconds, 3) for role, spent in self._spent.items()}
        return dict(sorted(((role, cores) for role, cores in busy.items() if cores), key=lambda item: -item[1]))

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        for one, role in self._processes():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                seconds = sum(one.cpu_times()[:2])
                self._spent[role] += seconds - self._seconds.get(one.pid, 0.0)
                self._seconds[one.pid] = seconds

    def _processes(self) -> Iterator[tuple[psutil.Process, str]]:
        me = psutil.Process()
        yield me, "driver"
        for one in me.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                words = one.cmdline()
                line = " ".join(words)
                known = next((name for mark, name in ROLES.items() if mark in line), None)
                if known is None and one.pid not in self._roles:
                    known = next((Path(word).name for word in words if word.endswith(".py")), one.name())
                if known is not None:
                    self._roles[one.pid] = known
                yield one, self._roles[one.pid]
