"""The pipeline against a bare loop and against the naive Ray Data script, on the same images and cores.

python -m benchmarks.throughput IMAGES --model radet-lite [--model CHECKPOINT ...] [--count 1024] [--rounds 2]

    pipeline   radet score's own stages, at steady state: rows after the first staged batch, over the time they took
    bare       one process per core, each: read, decode_picture, evidence(32 crops), with nothing else; images over seconds
    naive      ray.data.read_images -> float32 tensors, one row an image -> map_batches with the same detector

All three use one torch thread per process. Ratios are within one round; the machine is described in the result.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.machine import save
from pipelines.coordinator import Progress
from pipelines.items import has_image_suffix
from pipelines.score import ScoreJob, Tally, Watcher, score
from radet import Detector
from radet.images import decode_picture, read_header

CORES = len(__import__("os").sched_getaffinity(0))
BATCH = 32


class Clock(Watcher):
    """Rows and times of staged batches."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []

    def moved(self, tally: Tally, progress: Progress) -> None:
        self.points.append((time.perf_counter(), tally.rows))


def pipeline(folder: Path, model: str) -> dict[str, float]:
    """Steady state: from the moment every scorer has staged a batch to the moment the first runs out of work."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        manifest = score(ScoreJob(src=str(folder), out=out, model=model, batch_size=BATCH), clock)
    points = [point for point, after in zip(clock.points, clock.points[1:], strict=False) if point != after]
    start, end = points[CORES - 1], points[-CORES]
    work = manifest["work"]
    wall = manifest["seconds"] * CORES
    return {
        "images_per_s": (end[1] - start[1]) / (end[0] - start[0]),
        "score_s_per_image": work["score_s"] / work["scored"],
        "decode_s_per_image": work["decode_s"] / work["rows"],
        "fetch_s_per_image": work["fetch_s"] / work["rows"],
        "whole_run_images_per_s": work["rows"] / (wall / CORES),
    }


def _bare_worker(paths: list[Path], model: str, ready: Any, results: Any) -> None:
    torch.set_num_threads(1)
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
        torch.set_num_threads(1)
        self.detector = Detector.from_pretrained(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        crops = np.stack(list(batch["pixels"]))
        pixels = (crops.transpose(0, 2, 3, 1) * 255 + 0.5).astype(np.uint8)
        return {"drift": self.detector.evidence(pixels).drift_cosine}


def _to_float(row: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image

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
    points = []
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        points.append((time.perf_counter(), len(batch["drift"])))
    total = sum(count for _, count in points[1:])
    return total / (points[-1][0] - points[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-naive", action="store_true")
    parser.add_argument("--save", default="throughput")
    arguments = parser.parse_args()
    found = sorted(path for path in arguments.images.rglob("*") if has_image_suffix(path.name) and path.is_file())
    chosen = found[:: max(1, len(found) // arguments.count)][: arguments.count]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(chosen):
            Path(folder, f"{number:05d}{path.suffix}").symlink_to(path.absolute())
        for model in arguments.model:
            for _ in range(arguments.rounds):
                row: dict[str, Any] = {"model": Path(model).name, "images": len(chosen), "bare": bare(chosen, model)}
                ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
                row["pipeline"] = pipeline(Path(folder), model)
                if not arguments.no_naive:
                    ray.data.DataContext.get_current().target_max_block_size = 128 << 20
                    row["naive"] = naive(Path(folder), model)
                ray.shutdown()
                rate = row["pipeline"]["images_per_s"]
                row["pipeline_over_bare"] = rate / row["bare"]
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
