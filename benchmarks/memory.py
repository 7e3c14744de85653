"""Memory of a run at two corpus sizes:  python -m benchmarks.memory [--sizes 5000 50000] [--evaluate] [--save memory]

The cheapest honest configuration (benchmarks.tiny), since the question is whether anything grows with the corpus.
Reported per role: the largest unique set size (USS, what a process alone holds; libraries that others have left count
too, so it jumps as a run ends) and resident set size (RSS, which counts shared pages of the object store too) seen in
the second half of the run, when all is warm.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from benchmarks.tiny import write_checkpoint, write_files
from pipelines.sink import read_scores

ROLES = {
    "radet score": "driver",
    "radet evaluate": "driver",
    "benchmarks.scale_run": "driver",
    "ray::Coordinator": "coordinator",
    "ray::MapWorker(MapBatches(Scorer))": "scorer",
    "ray::MapBatches(_load)": "loader",
    "ray::MapBatches(_stage)": "stager",
    "raylet/raylet": "raylet and object store",
}


def watch(process: "subprocess.Popen[bytes]") -> list[tuple[float, dict[str, tuple[int, int]]]]:
    """(seconds, role -> largest (uss, rss) in bytes) until the process ends, every two seconds; RSS, which is cheap to
    ask for, is the largest of every tenth of one between, since a small run commits in half a second."""
    samples = []
    begun = time.monotonic()
    while process.poll() is None:
        roles = find_roles(process.pid)
        uss: defaultdict[str, int] = defaultdict(int)
        rss: defaultdict[str, int] = defaultdict(int)
        for one, role in roles:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                uss[role] = max(uss[role], one.memory_full_info().uss)
        due = time.monotonic() + 2
        while time.monotonic() < due and process.poll() is None:
            for one, role in roles:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    rss[role] = max(rss[role], one.memory_info().rss)
            time.sleep(0.1)
        samples.append((time.monotonic() - begun, {role: (uss[role], rss[role]) for role in rss}))
    return samples


def find_roles(driver: int) -> list[tuple[psutil.Process, str]]:
    """The driver and what it has started, by role."""
    found: list[tuple[psutil.Process, str]] = []
    processes: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        processes = [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
    for one in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(one.cmdline())
            found += [(one, name) for mark, name in ROLES.items() if mark in line][:1]
    return found


def measure(corpus: Path, checkpoint: Path, count: int, verb: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        radet = Path(sys.executable).with_name("radet")
        command = [str(radet), verb, str(corpus), "--out", out, "--model", str(checkpoint), "--limit", str(count)]
        begun = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        samples = watch(process)
        seconds = time.monotonic() - begun
        assert process.returncode == 0
        rows = read_scores(out if verb == "score" else f"{out}/scores/tiny", columns=["status"])
        assert rows.num_rows == count
    late = [sample for at, sample in samples if at > seconds / 2]
    peak = {
        role: [max(s[role][i] for s in late if role in s) / 2**20 for i in (0, 1)]
        for role in ROLES.values()
        if any(role in s for s in late)
    }
    return {
        "images": count,
        "seconds": round(seconds, 1),
        "uss_rss_mib": {k: [round(x) for x in v] for k, v in peak.items()},
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000], help="images of each run")
    parser.add_argument("--evaluate", action="store_true", help="of `radet evaluate`, not of `radet score`")
    asked = parser.parse_args()
    sizes, verb = sorted(asked.sizes), "evaluate" if asked.evaluate else "score"
    with tempfile.TemporaryDirectory() as folder:
        corpus, checkpoint = Path(folder, "corpus"), Path(folder, "tiny")
        writer = threading.Thread(target=write_files, args=(corpus, sizes[-1]))
        writer.start()
        write_checkpoint(checkpoint)
        writer.join()
        results = [measure(corpus, checkpoint, size, verb) for size in sizes]
    for result in results:
        print(result)
    first, last = results[0]["uss_rss_mib"], results[-1]["uss_rss_mib"]
    growth = {
        role: [round(b / a - 1, 3) for a, b in zip(first[role], last[role], strict=True)]
        for role in first
        if role in last
    }
    print("growth (USS, RSS):", growth)
    if asked.save:
        save(asked.save, {"runs": results, "growth_uss_rss": growth})


if __name__ == "__main__":
    run_main(main)
