"""What a service that nobody asks anything takes from what else computes on the machine.

python -m benchmarks.idle_service IMAGES [--model radet-lite] [--rounds 12] [--save idle_service]

`radet serve --haproxy` with a replica a core is started and left alone, while a bare loop (decode, score; a process a
core, kept to it, as nice as Ray's workers are) runs in blocks: by turns with all of the service's processes stopped
(SIGSTOP), and with them waiting as they do. Of each block: milliseconds a picture of the clock, and of the processor's
time of the loop itself. What the clock says more while they wait is what they take: their own time, and what it costs
the loop to be interrupted.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from benchmarks.pictures import pick
from benchmarks.serving_peers import own_service, running
from benchmarks.throughput import CORES
from pipelines.process import keep_to_core, tune
from radet import Detector
from radet.images import decode_picture, read_header

_BLOCK = 120
_NICE = 15  # Ray's worker_niceness


def _loop(paths: list[Path], model: str, core: int, asked: Connection) -> None:
    """A block for every True, answered with (seconds of the clock, seconds of the processor)."""
    os.nice(_NICE)
    keep_to_core(core)
    tune()
    detector = Detector.from_pretrained(model)
    data = [path.read_bytes() for path in paths]

    def block(pictures: int) -> None:
        for index in range(pictures):
            one = data[index % len(data)]
            crop = decode_picture(one, read_header(one), detector.config.crop).crop
            detector.evidence(np.ascontiguousarray(crop)[None])

    block(_BLOCK // 3)
    asked.send(())
    while asked.recv():
        wall, own = time.perf_counter(), time.thread_time()
        block(_BLOCK)
        asked.send((time.perf_counter() - wall, time.thread_time() - own))


@contextmanager
def _stopped(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of pictures")
    parser.add_argument("--model", default="radet-lite", help="of the service and of the loop")
    parser.add_argument("--rounds", type=int, default=12, help="of a block beside the service and one without")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    chosen, ends = pick(asked.images, _BLOCK * CORES), []
    for core in range(CORES):
        ours, its = context.Pipe()
        paths = chosen[core::CORES]
        context.Process(target=_loop, args=(paths, asked.model, core, its), daemon=True).start()
        its.close()  # or a loop that fails would be waited for
        ends.append(ours)
    for end in ends:
        end.recv()

    def block() -> dict[str, float]:
        for end in ends:
            end.send(True)
        took = [end.recv() for end in ends]
        wall, own = (statistics.mean(column) / _BLOCK * 1000 for column in zip(*took, strict=True))
        return {"wall_ms_per_image": wall, "own_cpu_ms_per_image": own}

    rounds = []
    with running([*own_service(asked.model, gpus=False), "--haproxy"], "/readyz"):
        time.sleep(15.0)  # it has just started
        (command,) = [one for one in psutil.Process().children() if "serve" in one.cmdline()]
        service = [command, *command.children(recursive=True)]
        for _ in range(asked.rounds):
            waiting = block()
            with _stopped(service):
                stopped = block()
            rounds.append({"beside_service": waiting, "service_stopped": stopped})
            print(json.dumps(rounds[-1]), flush=True)
    for end in ends:
        end.send(False)
    shares = [
        one["service_stopped"]["wall_ms_per_image"] / one["beside_service"]["wall_ms_per_image"] for one in rounds
    ]
    print(f"beside the service, the loop has {statistics.median(shares):.3f} of its speed without")
    if asked.save:
        save(asked.save, {"processes": len(service), "rounds": rounds})


if __name__ == "__main__":
    run_main(main)
