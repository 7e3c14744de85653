"""What bf16 and torch.compile do to a checkpoint's scores on labelled pictures, and what they are worth.

python -m benchmarks.precision DATA [--model radet-clip-b16] [--device cuda] [--count 994] [--save precision]

Every way of running the encoder sees the same crops: fp32 as everywhere, its blocks compiled, bf16, bf16 compiled.

    images/s   of the whole detector, crops at hand
    floor      the largest cosine drift of an unperturbed picture, alone and in batches, beside the median real drift
    scores     |logit - logit in fp32|, verdicts that differ, AUROC, and what the stated thresholds do: share of real
               pictures accused, share of generated ones found
"""

import time
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from benchmarks.pictures import evenly
from pipelines.labelled import list_labelled
from pipelines.weights import find_encoders
from radet import Detector
from radet.compiled import compiled
from radet.config import Precision
from radet.evidence import Evidence
from radet.fit import read_crops
from radet.metrics import auroc
from radet.selftest import drift_floor

_FIRST = 256  # pictures before the clock starts: whatever is made or compiled at first is there then
_WAYS: list[tuple[Precision, bool]] = [("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True)]


def look(detector: Detector, crops: NDArray[np.uint8]) -> tuple[Evidence, float]:
    """Evidence, and images a second."""
    detector.evidence(crops[:_FIRST])
    if detector.device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    found = detector.evidence(crops)
    return found, len(crops) / (time.perf_counter() - begun)


def compared(found: Evidence, exact: Evidence, generated: NDArray[np.bool_], detector: Detector) -> dict[str, Any]:
    assert found.logit is not None
    assert exact.logit is not None
    assert found.p_generated is not None
    away = np.abs(found.logit.astype(np.float64) - exact.logit)
    calls = {t.target_fpr: found.p_generated > t.value for t in detector.config.thresholds}
    return {
        "auroc": auroc(found.logit, generated),
        "logit_away": {
            "median": float(np.median(away)),
            "p99": float(np.quantile(away, 0.99)),
            "max": float(away.max()),
        },
        "verdicts_differ": float(np.mean(np.array(found.verdict) != np.array(exact.verdict))),
        "stated": {
            str(rate): {"fpr": float(called[~generated].mean()), "tpr": float(called[generated].mean())}
            for rate, called in calls.items()
        },
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("data", metavar="DATA", help="labelled pictures, as for radet evaluate")
    parser.add_argument("--model", default="radet-clip-b16", help="as for radet score")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--count", type=int, default=994, help="pictures, drawn evenly")
    asked = parser.parse_args()
    find_encoders()
    listed = list_labelled(asked.data)
    chosen = evenly(range(len(listed.locations)), asked.count)
    generated = listed.generated[chosen]
    crops: NDArray[np.uint8] | None = None
    exact: Evidence | None = None
    results = []
    for precision, compiles in _WAYS:
        detector = Detector.from_pretrained(asked.model, device=asked.device, precision=precision)
        if crops is None:
            crops = np.stack(list(read_crops((listed.locations[at] for at in chosen), detector.config.crop)))
        with compiled(detector.encoder, detector.config.crop.size) if compiles else nullcontext():
            found, rate = look(detector, crops)
            floor = drift_floor(detector)
        exact = exact or found
        row = {"precision": precision, "compiled": compiles, "images_per_s": rate, "floor": floor}
        row["real_drift"] = cast(Any, detector.config.reference).median_drift
        results.append(row | compared(found, exact, generated, detector))
        print(results[-1], flush=True)
    if asked.save:
        save(asked.save, {"model": asked.model, "pictures": len(generated), "ways": results})


if __name__ == "__main__":
    run_main(main)
