"""What is measured of the service: every metric by name, in one place. Each process has one Meters.

radet_requests_total{route,code}        answers: code is ok, cancelled where nobody waited for it, or an error's
radet_images_total{status}              pictures: ok, or an error's code (a batch has many)
radet_decode_seconds                    bytes to crop
radet_queue_seconds                     a crop's wait for its batch
radet_inference_seconds                 a batch through the detector
radet_request_seconds{route}            whole requests, reading the body included
radet_batch_size                        crops in a batch
radet_in_flight{replica}                requests that a front works on now
radet_score                             p_generated; nothing where uncalibrated
radet_self_test_ok{replica,model_id}    1 once the golden scores came out right
radet_settings_refused{replica}         1 where the last user_config cannot be, and the one before stays
radet_replicas{kind}                    fronts and scorers that reported lately
radet_problems{code}                    scorers that could not start in the last five minutes, by why
radet_score_shift{value,reference,statistic}   PSI and KS of recent scores, see pipelines.monitor
radet_recent_scores                     how many scores those are of
"""

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import Metric

disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARES = tuple(step / 20 for step in range(1, 20))


class Family(NamedTuple):
    """One metric of one process, as plain values that can be sent and added up."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, tuple[tuple[str, str], ...], float]]  # name, labels, value


class Meters:
    """The metrics of one process; `replica` names it in gauges."""

    def __init__(self, replica: str) -> None:
        self._registry = own = CollectorRegistry()
        self.replica = replica
        self.requests = Counter("radet_requests_total", "Answers by code", ["route", "code"], registry=own)
        self.images = Counter("radet_images_total", "Pictures by status", ["status"], registry=own)
        self.decode = Histogram("radet_decode_seconds", "Bytes to crop", buckets=_SECONDS, registry=own)
        self.queue = Histogram("radet_queue_seconds", "A crop's wait for its batch", buckets=_SECONDS, registry=own)
        self.inference = Histogram("radet_inference_seconds", "A batch's inference", buckets=_SECONDS, registry=own)
        self.request = Histogram("radet_request_seconds", "Whole requests", ["route"], buckets=_SECONDS, registry=own)
        self.batch = Histogram("radet_batch_size", "Crops in a batch", buckets=_SIZES, registry=own)
        self.score = Histogram("radet_score", "p_generated of scored pictures", buckets=_SHARES, registry=own)
        self._in_flight = Gauge("radet_in_flight", "Requests being worked on", ["replica"], registry=own)
        self._self_test = Gauge("radet_self_test_ok", "Self-test passed", ["replica", "model_id"], registry=own)
        self._refused = Gauge("radet_settings_refused", "The last user_config is refused", ["replica"], registry=own)

    def in_flight(self, requests: int) -> None:
        """So many requests are being worked on now."""
        self._in_flight.labels(self.replica).set(requests)

    def self_test(self, model_id: str) -> None:
        """The self-test of this model was passed; it takes the place of the model before it."""
        self._self_test.clear()
        self._self_test.labels(self.replica, model_id).set(1)

    def settings(self, *, refused: bool) -> None:
        """Whether the last user_config was refused."""
        self._refused.labels(self.replica).set(refused)

    def snapshot(self) -> list[Family]:
        """Everything up to now, cumulative; metrics that were never touched are left out."""
        return [
            Family(
                family.name,
                family.type,
                family.documentation,
                [(s.name, tuple(sorted(s.labels.items())), float(s.value)) for s in family.samples],
            )
            for family in self._registry.collect()
            if family.samples
        ]


def added(snapshots: Iterable[list[Family]]) -> list[Family]:
    """The sum of several processes' metrics. Gauges are told apart by their labels, so nothing of theirs is added."""
    sums: dict[str, tuple[Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            _, values = sums.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                values[name, labels] = values.get((name, labels), 0.0) + value
    return [
        family._replace(samples=[(name, labels, value) for (name, labels), value in values.items()])
        for family, values in sums.values()
    ]


def without_gauges(snapshot: list[Family]) -> list[Family]:
    """What remains true of a process that is gone."""
    return [family for family in snapshot if family.kind != "gauge"]


def gauge(name: str, text: str, values: dict[tuple[tuple[str, str], ...], float]) -> Family:
    return Family(name, "gauge", text, [(name, labels, value) for labels, value in values.items()])


class Collected:
    """Families as prometheus_client's exposition wants them."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric
