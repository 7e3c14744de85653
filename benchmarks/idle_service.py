"""What a service that nobody asks anything takes from what else computes on the machine.

python -m benchmarks.idle_service IMAGES [--model radet-lite] [--rounds 12] [--save idle_service]

`radet serve --haproxy` with a replica a core is started and left alone, while a bare loop (decode, score; a process a
core, kept to it, as nice as Ray's workers are) runs in blocks: by turns with all of the service's processes stopped
(SIGSTOP), and with them waiting as they do. Of each block: milliseconds a picture of the clock, and of the processor's
time of the loop itself. What the clock says more while they wait is what they take: their own time, and what it costs
the loop to be interrupted.
"""

import argparse
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

from benchmarks.machine import save
from benchmarks.serving_peers import running, services
from benchmarks.throughput import CORES, pick
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="radet-lite")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--save")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ends = []
    for core in range(CORES):
        ours, its = context.Pipe()
        paths = pick(asked.images, _BLOCK * CORES)[core::CORES]
        context.Process(target=_loop, args=(paths, asked.model, core, its), daemon=True).start()
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
    with running(*services(asked.model, "", gpus=False)["radet haproxy"]):
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
    print(f"of a machine without it: {statistics.median(shares):.3f}")
    if asked.save:
        save(asked.save, {"processes": len(service), "rounds": rounds})


if __name__ == "__main__":
    main()
