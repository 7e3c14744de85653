"""A corpus of a million through the full path, killed twice on the way:  python -m benchmarks.scale [--images 1000000]

    --source parquet   (default) Parquet files with an image column on the local disk, the output beside them
    --source s3        one object an image in an S3 server that the script starts, the output there too

Images and detector are the cheapest honest ones (benchmarks.tiny): the question is what the pipeline does with numbers.
At a tenth and at a fifth of the corpus the driver and then Ray's node process get SIGKILL, and the same job is started
again. Reported of the last and longest run: the rate in its first and its last tenth, and memory by role early
and late; the time of a resumed start against what it had to take up, of the commit, and of a second night over the
unchanged corpus. It ends with an error unless the output holds every input exactly once.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc

import pipelines.s3
from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from benchmarks.memory import find_roles
from benchmarks.tiny import pictures, write_checkpoint, write_parquet
from pipelines.sink import read_scores
from tests.s3_server import start_s3

_KILLS = ((0.1, "driver"), (0.2, "node"))
_EARLY_ROWS = 10_000
_LEAST = 50_000  # images: their tenth, before the first death, is 78 batches, of which `rates` leaves out 16

#: Role -> the largest resident set, and the largest share of it that no other process may hold too; bytes.
Memory = dict[str, tuple[int, int]]


class Run:
    """A driver process and what is seen of it."""

    def __init__(self, folder: Path, number: int, *arguments: str) -> None:
        self.log = folder / f"run-{number}.jsonl"
        self.log.touch()
        with (folder / f"run-{number}.err").open("wb") as errors:
            command = [sys.executable, "-m", "benchmarks.scale_run", *arguments, str(self.log)]
            self._process = subprocess.Popen(command, stdout=errors, stderr=errors)
        self.memory: list[tuple[int, Memory]] = []  # after so many rows
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def rows(self) -> int:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            found = [json.loads(line) for line in file.read().splitlines() if line[:1] == b"{" and line[-1:] == b"}"]
        return max((line.get("rows", 0) for line in found), default=0)

    def wait(self, rows: int | None = None) -> None:
        """Until so many rows are staged, or until the end."""
        while self._process.poll() is None and (rows is None or self.rows() < rows):
            time.sleep(0.5)
        if rows is None and self._process.returncode:
            raise SystemExit(f"the run failed: see {self.log.with_suffix('.err')}")

    def kill(self, whom: str) -> None:
        """SIGKILL, and wait until nothing of the run is left."""
        inside = psutil.Process(self._process.pid).children(recursive=True)
        node = next(one for one in inside if one.name() == "raylet")
        os.kill(self._process.pid if whom == "driver" else node.pid, signal.SIGKILL)
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:  # a driver without its node need not end by itself
            self._process.kill()
            self._process.wait()
        psutil.wait_procs(inside, timeout=60)

    def _watch(self) -> None:
        while self._process.poll() is None:
            largest: Memory = {}
            for one, role in find_roles(self._process.pid):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    found, (rss, own) = one.memory_info(), largest.get(role, (0, 0))
                    largest[role] = max(rss, found.rss), max(own, found.rss - found.shared)
            self.memory.append((self.rows(), largest))
            time.sleep(2)

    def facts(self) -> dict[str, Any]:
        told = self.told()
        opened = next((line for line in told if "opened" in line), {"at": None, "opened": None})
        moved = [line for line in told if line.get("rows")]
        found = {
            "rows": moved[-1]["rows"] if moved else 0,
            "taken_up": opened["opened"],
            "opened_after_s": opened["at"],
            "first_batch_after_s": moved[0]["at"] if moved else None,
        }
        ends = {name: next((line["at"] for line in told if name in line), None) for name in ("committing", "ended")}
        if ends["ended"] is not None:
            found |= {"commit_s": ends["ended"] - ends["committing"], "whole_s": ends["ended"]}
        return found


def rates(told: list[dict[str, Any]]) -> dict[str, float]:
    """Images a second in the first and the last tenth of a run, and over all of it, by least squares."""
    at, rows = np.array([(line["at"], line["rows"]) for line in told if line.get("rows")]).T
    keep = slice(8, -8)  # the pool fills, the pool empties
    at, rows = at[keep], rows[keep]

    def slope(chosen: Any) -> float:
        return float(np.polyfit(at[chosen] - at[chosen][0], rows[chosen], 1)[0])

    done = (rows - rows[0]) / (rows[-1] - rows[0])
    first, last = slope(done <= 0.1), slope(done >= 0.9)
    return {"first_tenth": first, "last_tenth": last, "whole": slope(done >= 0), "last_over_first": last / first}


def memory(samples: list[tuple[int, Memory]]) -> dict[str, dict[str, dict[str, float]]]:
    """MiB by role when the first rows were through, and in the last tenth: all (RSS, which counts the pages of the
    object store that a process has ever looked at), and its own."""
    end = max(rows for rows, _ in samples)
    early = [largest for rows, largest in samples if _EARLY_ROWS <= rows <= max(3 * _EARLY_ROWS, end // 20)]
    late = [largest for rows, largest in samples if rows >= 0.9 * end]
    roles = {role for largest in early for role in largest} & {role for largest in late for role in largest}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for role in sorted(roles):
        found[role] = {}
        for kind, name in enumerate(("rss", "own")):
            first, last = (max(m[role][kind] for m in part if role in m) / 2**20 for part in (early, late))
            found[role][name] = {
                "early_mib": round(first),
                "late_mib": round(last),
                "growth": round(last / first - 1, 3),
            }
    return found


def upload(url: str, count: int) -> None:
    with ThreadPoolExecutor(16) as pool:
        jobs = ((f"{url}/{number // 1000:04d}/{number:07d}.jpg", data) for number, data in enumerate(pictures(count)))
        for _ in pool.map(lambda job: pipelines.s3.put(*job), jobs):
            pass


def measure(folder: Path, src: str, out: str, images: int) -> dict[str, Any]:
    model = str(folder / "tiny")
    write_checkpoint(Path(model))
    runs: list[Run] = []
    numbers = itertools.count()
    for share, whom in _KILLS:
        run = Run(folder, next(numbers), src, out, model)
        run.wait(int(images * share) - sum(one.facts()["rows"] for one in runs))
        run.kill(whom)
        runs.append(run)
        print(f"killed the {whom}:", runs[-1].facts(), flush=True)
    last = Run(folder, next(numbers), src, out, model)
    last.wait()
    print(last.facts(), flush=True)
    again = Run(folder, next(numbers), src, out, model)
    again.wait()
    print("the second night:", again.facts(), flush=True)
    table = read_scores(out, columns=["id", "status"])
    distinct, scored = pc.count_distinct(table["id"]).as_py(), pc.sum(pc.equal(table["status"], "ok")).as_py()
    if not table.num_rows == distinct == scored == images:
        raise SystemExit(f"{images} inputs, {table.num_rows} rows, {distinct} distinct, {scored} scored")
    first_rates, last_rates = rates(runs[0].told()), rates(last.told())
    return {
        "images": images,
        "rates": {"first_run": first_rates, "last_run": last_rates},
        "memory": memory(last.memory),
        "runs": [run.facts() for run in (*runs, last)],
        "second_night": again.facts(),
        # Rows that a killed run had announced as staged and the next one did not find. Must be none.
        "lost_rows": sum(
            max(0, run.facts()["taken_up"] + run.facts()["rows"] - after.facts()["taken_up"])
            for run, after in zip(runs, (*runs[1:], last), strict=True)
        ),
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", type=int, default=1_000_000, help=f"{_LEAST:,} at least, or no rate can be told")
    parser.add_argument("--source", choices=["parquet", "s3"], default="parquet", help="as said above")
    parser.add_argument("--folder", type=Path, help="where corpus, output and logs go; default: a temporary one")
    asked = parser.parse_args()
    if asked.images < _LEAST:
        parser.error(f"--images {asked.images}: {_LEAST:,} at least, or no rate can be told")
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radet-scale-")))
        folder.mkdir(parents=True, exist_ok=True)
        if asked.source == "s3":
            server = stack.enter_context(start_s3(folder / "s3"))
            src, out = server.url("corpus"), server.url("out")
            upload(src, asked.images)
        else:
            src, out = str(folder / "corpus"), str(folder / "out")
            write_parquet(Path(src), asked.images)
        found = measure(folder, src, out, asked.images)
    print(json.dumps(found, indent=1))
    if asked.save:
        save(asked.save, found)


if __name__ == "__main__":
    run_main(main)
