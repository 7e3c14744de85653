"""The endpoint beside LitServe serving the same detector on the same cores, by turns.

python -m benchmarks.serving_peers IMAGES --litserve PYTHON [--rounds 3] [--seconds 15] [--gpus] [--save serving_peers]

PYTHON is an interpreter that has this project and litserve, which is no dependency. In every round each service is
started, warmed, measured and stopped, one after the other, so that a machine that is slower in one minute than in the
next is so to all of them:

    radet           `radet serve`, with Ray's own proxy
    radet haproxy   the same in HAProxy mode
    litserve        benchmarks.litserve_server, a worker a core, in batches of two and one by one; with --gpus batches
                    of 32, one worker a GPU and as many as a quarter of the cores

Pictures travel as base64 in JSON, which is what LitServe's documentation sends. `saturated` is a closed loop; then
requests come at fixed times, at one rate for all: --rate, or 80 % of the least that a service of the first round could
do.
"""

import asyncio
import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.command import new_parser, require_modules, run_main
from benchmarks.machine import save
from benchmarks.pictures import pick
from benchmarks.serving import answers, open_loop, saturate
from benchmarks.throughput import CORES

_PORT = 8123
_URL = f"http://127.0.0.1:{_PORT}"
_STARTS_S, _ENDS_S = 180, 60
_COUNT = 256
_LOAD = 0.8


def own_service(model: str, *, gpus: bool) -> list[str]:
    """The command, for a scorer a core, or one on a GPU."""
    radet = str(Path(sys.executable).with_name("radet"))
    scorers = ["--gpus"] if gpus else ["--replicas", str(CORES)]
    return [radet, "serve", "--model", model, "--port", str(_PORT), *scorers]


def services(model: str, litserve: str, *, gpus: bool) -> dict[str, tuple[list[str], str]]:
    """name -> (command, the path that answers 200 when it is ready)"""
    ours = own_service(model, gpus=gpus)
    theirs = [litserve, "-m", "benchmarks.litserve_server", "--model", model, "--port", str(_PORT)]
    found = {
        "radet": (ours, "/readyz"),
        "radet haproxy": ([*ours, "--haproxy"], "/readyz"),
    }
    if not gpus:
        sizes = {"litserve, in twos": "2", "litserve, one by one": "1"}
        return found | {name: ([*theirs, "--batch-size", size], "/health") for name, size in sizes.items()}
    theirs += ["--accelerator", "cuda", "--batch-size", "32", "--workers"]
    return found | {
        f"litserve, {workers} a GPU": ([*theirs, str(workers)], "/health")
        for workers in dict.fromkeys((1, max(1, CORES // 4)))
    }


@contextmanager
def running(command: list[str], ready: str) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        begun = time.monotonic()
        while not answers(_URL + ready):
            if process.poll() is not None or time.monotonic() - begun > _STARTS_S:
                raise SystemExit(f"it does not start: {' '.join(command)}")
            time.sleep(0.5)
        yield
    finally:
        below: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)  # HAProxy, for one, has a group of its own
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            for one in below:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of pictures")
    parser.add_argument("--litserve", required=True, metavar="PYTHON", help="an interpreter with litserve and radet")
    parser.add_argument("--model", default="radet-lite", help="as for radet serve")
    parser.add_argument("--rounds", type=int, default=3, help="each service once a round")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load")
    parser.add_argument("--clients", type=int, default=4 * CORES, help="of the closed loop")
    parser.add_argument("--gpus", action="store_true", help="the detector on a GPU")
    parser.add_argument("--rate", type=float, help="requests a second of the open loop; default: as said above")
    asked = parser.parse_args()
    require_modules(asked.litserve, "litserve", "radet", "benchmarks")
    bodies = [
        json.dumps({"image": base64.b64encode(path.read_bytes()).decode()}).encode()
        for path in pick(asked.images, _COUNT)
    ]
    rounds: list[dict[str, Any]] = []
    rate = asked.rate
    for number in range(asked.rounds):
        found: dict[str, Any] = {}
        for name, service in services(asked.model, asked.litserve, gpus=asked.gpus).items():
            with running(*service):
                saturate(_URL, bodies, 6.0, asked.clients)  # every process has seen its first pictures
                found[name] = {"saturated": saturate(_URL, bodies, asked.seconds, asked.clients)}
                if rate:
                    found[name]["open_loop"] = asyncio.run(open_loop(_URL, bodies, rate, asked.seconds))
            print(number, name, json.dumps(found[name]), flush=True)
        rate = rate or _LOAD * min(one["saturated"]["images_per_s"] for one in found.values())
        rounds.append(found)
    if asked.save:
        save(asked.save, {"open_loop_rate_per_s": rate, "rounds": rounds})


if __name__ == "__main__":
    run_main(main)
