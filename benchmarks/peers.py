"""Images a second of radet's detectors beside the published package sahu65 (int8 CLIP ViT-B/16, one pass, no batches)
and beside RIGID's two passes on the same encoder.

python -m benchmarks.peers IMAGES --sahu65 VENV/bin/python [--count 200] [--rounds 2] [--save peers]

sahu65 pins other versions of its dependencies, so it has an environment of its own (python -m venv VENV; VENV/bin/pip
install sahu65), and is called as its documentation says: one detector, one picture at a time, its own choice of
threads.
Ours: one process a core, one thread each, as everywhere (benchmarks.throughput, bare). Every detector reads and decodes
the same files; rounds are interleaved, since a shared machine is slower in one minute than in the next.
"""

import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.command import new_parser, require_modules, run_main
from benchmarks.machine import save
from benchmarks.pictures import pick
from benchmarks.throughput import bare
from pipelines.weights import find_encoders
from radet import Detector
from radet.peers import drift_detectors

_SAHU65 = """
import pathlib, sys, time
from sahu65.local import LocalDetector

detector = LocalDetector().warm()
paths = [pathlib.Path(line) for line in sys.stdin.read().splitlines()]
detector.detect_bytes(paths[0].read_bytes())
begun = time.perf_counter()
for path in paths:
    detector.detect_bytes(path.read_bytes())
print(len(paths) / (time.perf_counter() - begun))
"""


def sahu65(paths: list[Path], python: str) -> float:
    """Images a second, with the package in that Python's environment."""
    names = "\n".join(map(str, paths))
    done = subprocess.run([python, "-c", _SAHU65], input=names, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of pictures")
    parser.add_argument("--sahu65", metavar="PYTHON", required=True, help="an interpreter that has sahu65")
    parser.add_argument("--count", type=int, default=200, help="pictures")
    parser.add_argument("--rounds", type=int, default=2, help="each detector once a round")
    arguments = parser.parse_args()
    require_modules(arguments.sahu65, "sahu65")
    paths = pick(arguments.images, arguments.count)
    find_encoders()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"radet-lite": "radet-lite"}
        for precision in ("fp32", "bf16"):
            detector = Detector.from_pretrained("radet-clip-b16", precision=precision)
            rigid = next(peer for peer in drift_detectors(detector) if peer[0].name == "RIGID")[1]
            for name, one in ((f"radet-clip-b16 {precision}", detector), (f"RIGID {precision}", rigid)):
                models[name] = f"{folder}/{name}"
                one.save_pretrained(models[name])
        for _ in range(arguments.rounds):
            rates.setdefault("sahu65", []).append(sahu65(paths, arguments.sahu65))
            for name, model in models.items():
                rates.setdefault(name, []).append(bare(paths, model))
            print({name: round(values[-1], 2) for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    over = {name: rate / medians["sahu65"] for name, rate in medians.items()}
    for name, rate in medians.items():
        print(f"{name}: {rate:.2f} images/s, {over[name]:.2f} of sahu65")
    if arguments.save:
        save(arguments.save, {"images": len(paths), "images_per_s": rates, "over_sahu65": over})


if __name__ == "__main__":
    run_main(main)
