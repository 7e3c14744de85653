"""The endpoint under load, against the bare scorer on the same cores.

python -m benchmarks.serving IMAGES --url http://127.0.0.1:8000 [--model radet-lite] [--seconds 30] [--save NAME]

Start the service first (`radet serve --replicas 2`; with `--gpus`, say --device cuda here), so that what is measured is
what users run.

    bare         one process per core: read, decode, evidence, and nothing else (benchmarks.throughput); on a GPU one
                 process with the detector, and one per core that reads and decodes for it (benchmarks.gpu)
    saturated    closed loop, enough clients to keep every scorer busy: images/s, and its share of `bare`
    open loop    requests at fixed times, at 50, 80 and 150 % of `saturated`: latencies of what was accepted, counted
                 from the time at which a request was due (not from when a slow client got to it), and refusals

The client runs on the same machine, so its share of the cores is part of what is measured: 0.4 ms a picture of threads
and plain sockets for `saturated`, ten times that of asyncio for the open loop, which wants requests on time.
"""

import asyncio
import http.client
import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from benchmarks.command import new_parser, run_main
from benchmarks.gpu import Bench
from benchmarks.machine import save
from benchmarks.pictures import pick
from benchmarks.throughput import CORES, bare
from radet import Detector
from radet.errors import ConfigError

_LOADS = (0.5, 0.8, 1.5)
_COUNT = 256  # images that are sent round and round
_BATCH, _TURNS = 32, 16  # of the bare loop on a GPU: a batch as the service has it there, and how often round


def answers(url: str) -> bool:
    """Whether a GET of it is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    """The status; 0 where there was no answer."""
    try:
        async with session.post(f"{url}/v1/score", data=body, headers=_headers(body)) as answer:
            await answer.read()
            return answer.status
    except aiohttp.ClientError:
        return 0


def saturate(url: str, bodies: list[bytes], seconds: float, clients: int) -> dict[str, Any]:
    """Images a second of so many clients that never pause, refusals tried again at once; and how long they waited."""
    counts: Counter[int] = Counter()
    accepted: list[float] = []
    source, lock = itertools.cycle(bodies), threading.Lock()
    place = urlsplit(url)
    begun = time.perf_counter()

    def client() -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port)
        while time.perf_counter() < begun + seconds:
            with lock:
                body = next(source)
            sent = time.perf_counter()
            connection.request("POST", "/v1/score", body, _headers(body))
            answer = connection.getresponse()
            answer.read()
            spent = time.perf_counter() - sent
            with lock:
                counts[answer.status] += 1
                if answer.status == 200:
                    accepted.append(spent)
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    spent = time.perf_counter() - begun
    return {
        "images_per_s": counts[200] / spent,
        "clients": clients,
        "statuses": dict(counts),
        "accepted_ms": percentiles(accepted),
    }


async def open_loop(url: str, bodies: list[bytes], rate: float, seconds: float) -> dict[str, Any]:
    """Poisson arrivals at `rate`; nothing waits for anything."""
    rng = np.random.default_rng(1)
    due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    counts: Counter[int] = Counter()
    accepted: list[float] = []
    refused: list[float] = []

    async def one(session: aiohttp.ClientSession, when: float, body: bytes) -> None:
        status = await post(session, url, body)
        counts[status] += 1
        spent = time.perf_counter() - when
        (accepted if status == 200 else refused).append(spent)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begun = time.perf_counter()
        tasks = []
        for offset, body in zip(due, itertools.cycle(bodies), strict=False):
            await asyncio.sleep(max(0.0, begun + offset - time.perf_counter()))
            tasks.append(asyncio.create_task(one(session, begun + offset, body)))
        await asyncio.gather(*tasks)
        spent = time.perf_counter() - begun
    return {
        "rate_per_s": rate,
        "accepted_per_s": counts[200] / spent,
        "statuses": {str(status): count for status, count in sorted(counts.items())},
        "accepted_ms": percentiles(accepted),
        "refused_ms": percentiles(refused),
    }


def _headers(body: bytes) -> dict[str, str]:
    return {"content-type": "application/json"} if body.startswith(b"{") else {}


def percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    values = np.percentile(np.array(seconds) * 1000, [50, 90, 99])
    return {name: round(float(value), 1) for name, value in zip(("p50", "p90", "p99"), values, strict=True)}


def run(url: str, bodies: list[bytes], seconds: float, clients: int) -> dict[str, Any]:
    saturate(url, bodies, min(5.0, seconds), clients)  # every process has seen its first picture
    tops = [saturate(url, bodies, seconds, clients)]
    loads = [asyncio.run(open_loop(url, bodies, share * tops[0]["images_per_s"], seconds)) for share in _LOADS]
    tops.append(saturate(url, bodies, seconds, clients))
    return {"saturated": tops, "open_loop": dict(zip(map(str, _LOADS), loads, strict=True))}


def alone_on(device: str, files: list[Path], model: str) -> float:
    """Images a second with no service."""
    if device == "cpu":
        return bare(files, model)
    detector = Detector.from_pretrained(model, device=device)
    return Bench(device, _BATCH, 0.0).files(detector, files * _TURNS)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of pictures")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    parser.add_argument("--model", default="radet-lite", help="the one that the service has, for the bare scorer")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--clients", type=int, default=4 * CORES, help="of the closed loop")
    parser.add_argument("--device", default="cpu", help="of the bare scorer: cpu or cuda")
    asked = parser.parse_args()
    files = pick(asked.images, _COUNT)
    if not answers(f"{asked.url}/readyz"):
        raise ConfigError(f"no service is ready at {asked.url}: start it first, with radet serve --replicas {CORES}")
    bodies = [path.read_bytes() for path in files]
    before = alone_on(asked.device, files, asked.model)
    found = run(asked.url, bodies, asked.seconds, asked.clients)
    # Before and after: the machine may have been shared with somebody meanwhile.
    alone = (before + alone_on(asked.device, files, asked.model)) / 2
    top = sum(one["images_per_s"] for one in found["saturated"]) / len(found["saturated"])
    found |= {"bare_images_per_s": alone, "share_of_bare": top / alone}
    accepted = {load: result["accepted_ms"] for load, result in found["open_loop"].items()}
    if accepted["0.8"] and accepted["1.5"]:
        found["p99_at_150_over_80"] = accepted["1.5"]["p99"] / accepted["0.8"]["p99"]
    print(json.dumps(found, indent=1))
    if asked.save:
        save(asked.save, found)


if __name__ == "__main__":
    run_main(main)
