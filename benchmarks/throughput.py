"""The pipeline against a bare loop, the naive Ray Data script and Daft, on the same images and cores.

python -m benchmarks.throughput IMAGES --model radet-lite [--model CHECKPOINT ...] [--count 1024] [--rounds 2]

    pipeline   radet score's own stages; `busy_cores` says which processes computed meanwhile, and how much is Ray
    bare       one process per core: read, decode_picture, evidence(32 crops) and nothing else; images over seconds
    naive      ray.data.read_images -> float32 tensors, one row an image -> map_batches with the same detector
    daft       (--daft) Daft's image pattern: list, download, decode, resize, a class in processes of its own
               (Apache-2.0, no dependency of radet: pip install daft)

Rates on Ray and Daft are at steady state: the least-squares slope of rows over time in the second half of the rows.
Where decoding dominates, ask for thousands of images, so that by then nothing is left of what was decoded before the
first scorer was there. All use one torch thread per process and the same allocator settings (pipelines.process.tune);
the naive script has the pipeline's Ray (pipelines.cluster.connected), which gives Ray Data all CPUs. The bare loop runs
between the others, and every second round is in the other order, because a shared machine is slower
in one minute than in the next. Ratios are within one round.

`--model radet-clip-b16:bf16` is a checkpoint in that precision; `--model tiny` a detector of random weights that
costs next to nothing (benchmarks.tiny). --side 1536 enlarges the images first (shorter side, JPEG 90): what cameras
deliver, where decoding dominates.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image

from benchmarks.busy_cores import BusyCores
from benchmarks.command import new_parser, require_modules, run_main
from benchmarks.machine import save
from benchmarks.pictures import pick
from benchmarks.tiny import write_checkpoint
from pipelines.cluster import connected
from pipelines.coordinator import Progress
from pipelines.process import cores, tune
from pipelines.score import ScoreJob, Tally, Watcher, score
from radet import Detector
from radet.config import DetectorConfig, resolve
from radet.crop import CropPolicy
from radet.images import decode_picture, read_header

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for its workers
CORES = cores()
BATCH = 32
_STEADY_BATCHES = 6  # of each core, at least: `slope` leaves out the first half, and one of each at both ends


class Clock(Watcher):
    """Rows and times of staged batches, and from the first one on, which processes compute."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []
        self.busy_cores: dict[str, float] = {}
        self._busy = BusyCores()

    def moved(self, tally: Tally, progress: Progress) -> None:  # noqa: ARG002
        self.points.append((time.perf_counter(), tally.rows))
        self._busy.start()

    def committing(self) -> None:
        self.busy_cores = self._busy.stop()


def pipeline(folder: Path, model: str) -> dict[str, Any]:
    """The rate at steady state, and where the time went."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        manifest = score(ScoreJob(src=str(folder), out=out, model=model, batch_size=BATCH), clock)
    work = manifest["work"]
    if work["scored"] < work["rows"]:  # the others would score a duplicate again
        raise SystemExit(f"{work['rows'] - work['scored']} of {work['rows']} files are duplicates or broken")
    return {
        "pipeline": slope(clock.points),
        "score_s_per_image": work["score_s"] / work["scored"],
        "decode_s_per_image": work["decode_s"] / work["rows"],
        "fetch_s_per_image": work["fetch_s"] / work["rows"],
        "whole_run_images_per_s": work["rows"] / manifest["seconds"],
        "busy_cores": clock.busy_cores,
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
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit("the bare loop failed: see above")
    times: list[tuple[float, float]] = [results.get() for _ in workers]
    return len(paths) / (max(end for _, end in times) - min(begun for begun, _ in times))


class _NaiveScorer:
    def __init__(self, model: str) -> None:
        tune()
        self.detector = Detector.from_pretrained(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        crops = np.stack(list(batch["pixels"]))
        pixels = (crops.transpose(0, 2, 3, 1) * 255 + 0.5).astype(np.uint8)
        return {"drift": self.detector.evidence(pixels).drift_cosine}


def _to_float(row: dict[str, Any], policy: CropPolicy) -> dict[str, Any]:
    picture = Image.fromarray(row["image"])
    size = policy.size
    scale = (policy.resize or size) / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)), np.float32) / 255
    return {"pixels": np.ascontiguousarray(pixels.transpose(2, 0, 1))}


def naive(folder: Path, model: str) -> float:
    """As in many a tutorial: full-size decoding in the reader, a float32 tensor per row, a batch function."""
    ray.data.DataContext.get_current().target_max_block_size = 128 << 20  # Ray's own; the pipeline changes it
    policy = DetectorConfig.read(resolve(model)).crop
    dataset = ray.data.read_images(str(folder), mode="RGB").map(_to_float, fn_kwargs={"policy": policy})
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


def daft(folder: Path, model: str) -> float:
    """The slope, of a process of its own: Daft's engine starts threads that would stay."""
    from benchmarks import daft_inference  # noqa: PLC0415 - needs a package that is no dependency

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return slope(pool.submit(daft_inference.points, folder, model).result())


def slope(points: list[tuple[float, int]]) -> float:
    """Rows a second, by least squares, in the second half of the rows, while every worker has work.

    The first half flatters whoever decodes while models load: those rows come out as fast as they are scored.
    """
    half = points[-1][1] / 2
    times, rows = np.array([point for point in points[CORES - 1 : -CORES] if point[1] >= half]).T
    return float(np.polyfit(times - times[0], rows, 1)[0])


def enlarged(paths: list[Path], side: int, folder: Path) -> list[Path]:
    """The same pictures, larger."""
    for number, path in enumerate(paths):
        with Image.open(path) as picture:
            scale = side / min(picture.size)
            size = (round(picture.width * scale), round(picture.height * scale))
            larger = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        larger.save(folder / f"{number:05d}.jpg", quality=90)
    return sorted(folder.iterdir())


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of pictures")
    parser.add_argument("--model", action="append", required=True, help="may be repeated")
    parser.add_argument("--count", type=int, default=1024, help="pictures")
    parser.add_argument("--rounds", type=int, default=1, help="each contender once a round")
    parser.add_argument("--side", type=int, help="enlarge the pictures to this shorter side")
    parser.add_argument("--no-naive", action="store_true", help="leave the naive script out")
    parser.add_argument("--daft", action="store_true", help="measure Daft too")
    asked = parser.parse_args()
    if asked.daft:
        require_modules(sys.executable, "daft")
    chosen = pick(asked.images, asked.count)
    if len(chosen) < (least := _STEADY_BATCHES * CORES * BATCH):
        parser.error(f"{len(chosen)} images: steady state on {CORES} cores wants {least}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        folder.mkdir()
        if asked.side:
            chosen = enlarged(chosen, asked.side, folder)
        else:
            for number, path in enumerate(chosen):
                (folder / f"{number:05d}{path.suffix}").symlink_to(path.absolute())
        contenders = ["pipeline", *([] if asked.no_naive else ["naive"]), *(["daft"] if asked.daft else [])]
        results = []
        for model in asked.model:
            place = prepared(model, Path(name))
            for number in range(asked.rounds):
                found = one_round(chosen, folder, place, contenders[:: -1 if number % 2 else 1])
                results.append({"model": Path(model).name, "images": len(chosen), "side": asked.side, **found})
                print(results[-1], flush=True)
    for model in {row["model"] for row in results}:
        ratios = [row["pipeline_over_bare"] for row in results if row["model"] == model]
        print(f"{model}: pipeline over bare, median of {len(ratios)}: {statistics.median(ratios):.3f}")
    if asked.save:
        save(asked.save, results)


def prepared(model: str, folder: Path) -> str:
    """Where to find what --model names."""
    target = folder / model.replace("/", "-")
    if model == "tiny":
        write_checkpoint(target)
    elif model.endswith(":bf16"):
        Detector.from_pretrained(model.removesuffix(":bf16"), precision="bf16").save_pretrained(target)
    else:
        return model
    return str(target)


def one_round(chosen: list[Path], folder: Path, model: str, order: list[str]) -> dict[str, Any]:
    """Every contender once, the bare loop before, between and after them on equal shares of the images."""
    shares = len(order) + 1
    row: dict[str, Any] = {"order": order, "bare": [bare(chosen[::shares], model)]}
    for number, name in enumerate(order, 1):
        if name == "daft":
            row["daft"] = daft(folder, model)
        else:
            with connected(None):
                if name == "pipeline":
                    row |= pipeline(folder, model)
                else:
                    row["naive"] = naive(folder, model)
        row["bare"].append(bare(chosen[number::shares], model))
    row["pipeline_over_bare"] = row["pipeline"] / statistics.mean(row["bare"])
    row |= {f"pipeline_over_{name}": row["pipeline"] / row[name] for name in order if name != "pipeline"}
    return row


if __name__ == "__main__":
    run_main(main)
