"""One process that the replicas report to: the service's metrics as a whole, who is ready, and whether scores shift.

It computes nothing of a score; without it pictures are scored as before, and only /metrics and /readyz suffer.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest

from pipelines.model import ModelFacts, Problem
from pipelines.observe import Collected, Family, added, gauge, without_gauges
from radet.shift import ks, psi

#: How often replicas report, and after how long one that does not is taken for gone.
REPORT_EVERY_S = 5.0
GONE_AFTER_S = 15.0

_RETURNING = 100  # processes that are gone, and may have been silent only
_RECENT = 2000  # scores that are compared with the reference
_FEWEST = 50  # below that many, chance shifts them


@dataclass(slots=True, kw_only=True)
class Report:
    """What a replica says of itself. `kind`: front or scorer; a scorer's `facts`, or the `problem` that it has."""

    replica: str
    kind: str
    metrics: list[Family] = field(default_factory=list)
    facts: ModelFacts | None = None
    problem: Problem | None = None
    scores: list[tuple[float, float | None]] = field(default_factory=list)  # p_generated, drift_cosine: new ones


class Monitor:
    """What the replicas have reported lately. Not thread-safe: it belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._live: dict[str, tuple[float, Report]] = {}
        self._gone: dict[str, list[Family]] = {}  # by replica, the last ones
        self._buried: list[Family] = []  # all before
        self._recent: deque[tuple[float, float | None]] = deque(maxlen=_RECENT)
        self._recent_of = ""

    def report(self, report: Report) -> None:
        """Take what a replica says of itself; it stands until its next report, or until it is taken for gone."""
        self._live[report.replica] = (self._clock(), report)
        self._gone.pop(report.replica, None)  # it was silent only, and tells what it told before again
        if report.facts is not None and report.scores:
            if report.facts.model_id != self._recent_of:  # another model's scores are no shift
                self._recent.clear()
                self._recent_of = report.facts.model_id
            self._recent.extend(report.scores)

    def models(self) -> list[ModelFacts]:
        """What the scorers that are ready now score with; several while a new model is rolled out. Newest first."""
        self._forget()
        found = [(when, report.facts) for when, report in self._live.values() if report.facts is not None]
        return [facts for _, facts in sorted(found, key=lambda pair: -pair[0])]

    def problems(self, within_s: float | None = None) -> list[Problem]:
        """Why scorers could not start, newest first; `within_s`: only what was told in the last so many seconds."""
        self._forget()
        since = -math.inf if within_s is None else self._clock() - within_s
        found = [
            (when, report.problem)
            for when, report in self._live.values()
            if report.problem is not None and when >= since
        ]
        return [problem for _, problem in sorted(found, key=lambda pair: -pair[0])]

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        self._forget()
        families = added([self._buried, *self._gone.values(), *(report.metrics for _, report in self._live.values())])
        registry = CollectorRegistry()
        registry.register(Collected([*families, self._replicas(), self._problems(), *self._shift()]))
        return generate_latest(registry)

    def _forget(self) -> None:
        """Processes that are gone keep their counts: counters must not fall."""
        now = self._clock()
        for replica, (when, report) in list(self._live.items()):
            if now - when > GONE_AFTER_S and (report.problem is None or now - when > 20 * GONE_AFTER_S):
                self._gone[replica] = without_gauges(report.metrics)
                del self._live[replica]
        while len(self._gone) > _RETURNING:
            self._buried = added([self._buried, self._gone.pop(next(iter(self._gone)))])

    def _replicas(self) -> Family:
        kinds = {"front": 0, "scorer": 0}
        for _, report in self._live.values():
            if report.problem is None:
                kinds[report.kind] += 1
        return gauge(
            "radet_replicas", "Processes that report", {(("kind", kind),): float(n) for kind, n in kinds.items()}
        )

    def _problems(self) -> Family:
        counts = Counter(problem.code for problem in self.problems())
        return gauge(
            "radet_problems",
            "Scorers that could not start",
            {(("code", code),): float(n) for code, n in counts.items()},
        )

    def _shift(self) -> list[Family]:
        return [
            gauge("radet_recent_scores", "Scores that the shift is of", {(): float(len(self._recent))}),
            gauge("radet_score_shift", "Recent scores against the checkpoint's reference", self._shifts()),
        ]

    def _shifts(self) -> dict[tuple[tuple[str, str], ...], float]:
        facts = next((facts for facts in self.models() if facts.model_id == self._recent_of), None)
        if facts is None or len(self._recent) < _FEWEST:
            return {}
        p = [p for p, _ in self._recent if not math.isnan(p)]
        drift = [drift for _, drift in self._recent if drift is not None]
        pairs = [
            ("p_generated", "real", p, facts.reference_real),
            ("p_generated", "generated", p, facts.reference_generated),
            ("drift_cosine", "real", drift, facts.reference_drift),
        ]
        return {
            (("reference", reference), ("statistic", statistic), ("value", value)): measure(values, quantiles)
            for value, reference, values, quantiles in pairs
            if quantiles and values
            for statistic, measure in (("psi", psi), ("ks", ks))
        }
