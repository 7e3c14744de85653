"""The pipeline against a bare loop and against the naive Ray Data script, on the same images and cores.

python -m benchmarks.throughput IMAGES --model radet-lite [--model CHECKPOINT ...] [--count 1024] [--rounds 2]

    pipeline   radet score's own stages
    bare       one process per core: read, decode_picture, evidence(32 crops) and nothing else; images over seconds
    naive      ray.data.read_images -> float32 tensors, one row an image -> map_batches with the same detector

Rates on Ray are at steady state: the least-squares slope of rows over time, start and end left out. All three use one
torch thread per process and the same allocator settings (pipelines.process.tune). The bare loop runs before and after
the pipeline, on half of the images each, because a shared machine is slower in one minute than in the next. Ratios are
within one round; the machine is described in the result.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image

from benchmarks.machine import save
from pipelines.cluster import connected
from pipelines.coordinator import Progress
from pipelines.items import has_image_suffix
from pipelines.process import tune
from pipelines.score import ScoreJob, Tally, Watcher, score
from radet import Detector
from radet.images import decode_picture, read_header

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for its workers
CORES = len(os.sched_getaffinity(0))
BATCH = 32


class Clock(Watcher):
    """Rows and times of staged batches."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []

    def moved(self, tally: Tally, progress: Progress) -> None:  # noqa: ARG002
        self.points.append((time.perf_counter(), tally.rows))


def pipeline(folder: Path, model: str) -> dict[str, float]:
    """The rate at steady state, and where the time went."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        manifest = score(ScoreJob(src=str(folder), out=out, model=model, batch_size=BATCH), clock)
    work = manifest["work"]
    wall = manifest["seconds"] * CORES
    return {
        "images_per_s": slope(clock.points),
        "score_s_per_image": work["score_s"] / work["scored"],
        "decode_s_per_image": work["decode_s"] / work["rows"],
        "fetch_s_per_image": work["fetch_s"] / work["rows"],
        "whole_run_images_per_s": work["rows"] / (wall / CORES),
    }


def _bare_worker(paths: list[Path], model: str, ready: Any, results: Any) -> None:
    tune()
    detector = Detector.from_pretrained(model)
    policy = detector.config.crop
    detector.evidence(np.zeros((2, policy.size, policy.size, 3), np.uint8))  # warm
    ready.wait()
    begun = time.perf_counter()
    for first in range(0, len(paths), BATCH):
        crops = []
        for path in paths[first : first + BATCH]:
            data = path.read_bytes()
            crops.append(decode_picture(data, read_header(data), policy).crop)
        detector.evidence(np.stack(crops))
    results.put((begun, time.perf_counter()))


def bare(paths: list[Path], model: str) -> float:
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(CORES), context.Queue()
    workers = [
        context.Process(target=_bare_worker, args=(paths[i::CORES], model, ready, results)) for i in range(CORES)
    ]
    for worker in workers:
        worker.start()
    times = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return len(paths) / (max(end for _, end in times) - min(begun for begun, _ in times))


class _NaiveScorer:
    def __init__(self, model: str) -> None:
        tune()
        self.detector = Detector.from_pretrained(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        crops = np.stack(list(batch["pixels"]))
        pixels = (crops.transpose(0, 2, 3, 1) * 255 + 0.5).astype(np.uint8)
        return {"drift": self.detector.evidence(pixels).drift_cosine}


def _to_float(row: dict[str, Any]) -> dict[str, Any]:
    picture = Image.fromarray(row["image"])
    scale = 256 / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return {"pixels": np.ascontiguousarray(pixels.transpose(2, 0, 1))}


def naive(folder: Path, model: str) -> float:
    """As in many a tutorial: full-size decoding in the reader, a float32 tensor per row, a batch function."""
    dataset = ray.data.read_images(str(folder), mode="RGB").map(_to_float)
    dataset = dataset.map_batches(
        _NaiveScorer,
        fn_constructor_args=(model,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=CORES),
        num_cpus=0.5,
    )
    points, rows = [], 0
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        rows += len(batch["drift"])
        points.append((time.perf_counter(), rows))
    return slope(points)


def pick(folder: Path, count: int) -> list[Path]:
    """About `count` image files, drawn evenly from all below a folder."""
    found = sorted(path for path in folder.rglob("*") if has_image_suffix(path.name) and path.is_file())
    return found[:: max(1, len(found) // count)][:count]


def slope(points: list[tuple[float, int]]) -> float:
    """Rows a second, by least squares, while every worker has work: start and end left out."""
    times, rows = np.array(points[CORES - 1 : -CORES]).T
    return float(np.polyfit(times - times[0], rows, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-naive", action="store_true")
    parser.add_argument("--save", default="throughput")
    arguments = parser.parse_args()
    chosen = pick(arguments.images, arguments.count)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(chosen):
            Path(folder, f"{number:05d}{path.suffix}").symlink_to(path.absolute())
        for model in arguments.model:
            for _ in range(arguments.rounds):
                row: dict[str, Any] = {"model": Path(model).name, "images": len(chosen)}
                row["bare"] = [bare(chosen[::2], model)]
                with connected(None):
                    row["pipeline"] = pipeline(Path(folder), model)
                row["bare"].append(bare(chosen[1::2], model))
                if not arguments.no_naive:
                    with connected(None):
                        ray.data.DataContext.get_current().target_max_block_size = 128 << 20
                        row["naive"] = naive(Path(folder), model)
                rate = row["pipeline"]["images_per_s"]
                row["pipeline_over_bare"] = rate / statistics.mean(row["bare"])
                if "naive" in row:
                    row["pipeline_over_naive"] = rate / row["naive"]
                print(row, flush=True)
                results.append(row)
    for model in {row["model"] for row in results}:
        ratios = [row["pipeline_over_bare"] for row in results if row["model"] == model]
        print(f"{model}: pipeline over bare, median of {len(ratios)}: {statistics.median(ratios):.3f}")
    save(arguments.save, results)


if __name__ == "__main__":
    main()
