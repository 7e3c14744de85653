"""A long storm over one scoring job on a real cluster of several nodes.

python -m benchmarks.chaos [--seed 1] [--save chaos]

Actors, nodes and the driver are killed in an order drawn from the seed, nodes are added, and S3 answers 503, loses
answers and stalls in bursts. The output must hold every input exactly once, or the script ends with an error; what the
storm cost is printed. Starts an S3 server, a cluster and everything else by itself.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import pytest
import skimage
from PIL import Image

from benchmarks.command import new_parser, run_main
from benchmarks.machine import save
from tests.chaos.storm import Storm
from tests.corpus import PHOTOGRAPHS, write_corpus
from tests.nodes import Nodes, upload
from tests.s3_proxy import Bursts, proxy
from tests.s3_server import S3Server, start_s3


def main() -> None:
    arguments = new_parser(__doc__)
    arguments.add_argument("--images", type=int, default=5000, help="small ones, made for this")
    arguments.add_argument("--deaths", type=int, default=12, help="in all")
    arguments.add_argument("--nodes", type=int, default=2, help="of one CPU each")
    arguments.add_argument("--seed", type=int, default=0, help="of the order of deaths and of S3's faults")
    asked = arguments.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(prefix="radet-chaos-") as name, start_s3(Path(name) / "s3") as s3:
        outcome = storm(s3, Path(name), asked)
    print(json.dumps(outcome, indent=2))
    if asked.save:
        save(asked.save, outcome)


def storm(s3: S3Server, folder: Path, asked: argparse.Namespace) -> dict[str, object]:
    source = Path(skimage.__file__).parent / "data"
    photographs = [Image.open(source / name).convert("RGB") for name in PHOTOGRAPHS]
    write_corpus(folder / "corpus", asked.images, photographs)
    src = upload(folder / "corpus", s3.url("corpus"))
    # Each kind in turn, in an order of the seed's: a storm of this length is to have met them all.
    order = random.Random(asked.seed)
    deaths = [kind for _ in range(-(-asked.deaths // 3)) for kind in order.sample(["actor", "node", "driver"], 3)]
    deaths = deaths[: asked.deaths]
    every = max(1, asked.images // 64 // (len(deaths) + 1))  # batches between two of them
    begun = time.monotonic()
    with proxy(s3.endpoint) as between, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        nodes = Nodes(folder / "nodes")
        try:
            made = Storm(
                nodes, between, folder=folder, src=src, out=s3.url("out"), images=asked.images, seed=asked.seed
            )
            for _ in range(asked.nodes):
                made.add_node()
            between.faults = Bursts(seed=asked.seed, every=200, length=10, kinds=("503", "cut", "stall"))
            outcome = made.run(deaths, every=every)
        finally:
            nodes.close()
    if not outcome.images == outcome.rows == outcome.distinct == outcome.ok:
        raise SystemExit(f"inputs were lost or doubled: {outcome}")
    return {
        "seed": asked.seed,
        "nodes": asked.nodes,
        "order": deaths,
        "seconds": round(time.monotonic() - begun, 1),
        "outcome": outcome.to_dict(),
    }


if __name__ == "__main__":
    run_main(main)
