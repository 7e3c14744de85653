"""Everything at once, through `radet submit`, on a cluster whose nodes share nothing but S3."""

import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import urllib3
import yaml
from PIL import Image

from pipelines.plan import Plan
from pipelines.storage import open_folder
from pipelines.weights import local_model
from radet import Detector

from ..bad_inputs import encoded, photo
from ..client import ask, eventually, load
from ..conftest import RADET
from ..corpus import write_corpus
from ..nodes import Nodes, radet, upload
from ..ports import free_port
from ..s3_proxy import Bursts, proxy
from ..s3_server import S3Server
from ..training import tiny_recipe, write_encoder, write_tree
from .storm import Storm

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1800)]

BLOCK = Plan.of({"CPU": 2}, None).block


def test_scoring_survives_the_storm(s3: S3Server, tmp_path: Path, photographs: list[Image.Image]) -> None:
    count = 20 * BLOCK
    write_corpus(tmp_path / "corpus", count, photographs, side=48)
    src = upload(tmp_path / "corpus", s3.url(f"storm-{os.getpid()}/corpus"))
    with proxy(s3.endpoint) as between, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        nodes = Nodes(tmp_path / "nodes")
        try:
            storm = Storm(
                nodes, between, folder=tmp_path, src=src, out=s3.url(f"storm-{os.getpid()}/out"), images=count, seed=7
            )
            for _ in range(2):
                storm.add_node()
            between.faults = Bursts(seed=7, every=50, length=6)
            outcome = storm.run(["actor", "driver", "node"], every=1)
        finally:
            nodes.close()
    print(json.dumps(outcome.to_dict()))
    assert outcome.rows == outcome.distinct == outcome.ok == count, "every input exactly once"
    assert outcome.deaths == {"actor": 1, "node": 1, "driver": 1}
    assert outcome.submissions == 2
    assert outcome.kept >= 2 * BLOCK, "what was staged when the driver died is not done again"
    assert set(outcome.s3_faults) == {"503", "cut"}


@pytest.mark.parametrize("workers", ["2", "1:2"])
def test_training_on_two_nodes_loses_one_and_finishes(
    s3: S3Server, tmp_path: Path, photographs: list[Image.Image], workers: str
) -> None:
    """Two workers of 0.75 CPU each on nodes of 1 CPU: neither node has room for both. Where one is enough, it goes on
    alone; else another node has to come."""
    epochs = 3
    base = s3.url(f"train-storm-{os.getpid()}-{workers.replace(':', '-')}")
    places = {
        name: upload(write_tree(tmp_path / name, photographs, count, seed=seed), f"{base}/{name}")
        for name, count, seed in (("train", 64, 0), ("val", 40, 1))
    }
    recipe = replace(tiny_recipe(write_encoder(tmp_path / "encoder")), epochs=epochs)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asdict(recipe)))))
    out = f"{base}/out"
    train = {"data": places["train"], "val": places["val"], "config": "recipe.yaml", "out": out, "workers": workers}
    job = {"name": f"train-{os.getpid()}", "working_dir": ".", "include": ["recipe.yaml"], "train": train}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    nodes = Nodes(tmp_path / "nodes")
    try:
        nodes.add("node1")
        lost = nodes.add("node2")
        command = [RADET, "submit", str(tmp_path / "job.yaml"), "--address", nodes.dashboard]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for_checkpoint(out, running)
        nodes.kill(lost)
        if workers == "2":
            nodes.add("node3")
        told, _ = running.communicate(timeout=1200)
    finally:
        nodes.close()
    assert running.returncode == 0, told
    history = [json.loads(line) for line in open_folder(out).read("metrics.jsonl").decode().splitlines()]
    assert [epoch["epoch"] for epoch in history] == list(range(epochs))
    assert all(np.isfinite(epoch["loss"]) for epoch in history)
    detector = Detector.from_pretrained(local_model(out))
    assert detector.config.calibration is not None


def test_serving_on_two_nodes_loses_one_and_keeps_answering(tmp_path: Path) -> None:
    """A scorer on each node of 1 CPU; the proxy is on the head. Requests that were under way on the lost node may fail;
    those that come later wait, or are refused, until all is well again."""
    port = free_port()
    serve = {"model": "radet-lite", "host": "127.0.0.1", "port": port, "replicas": "2"}
    job = {"name": f"serve-{os.getpid()}", "run": "endpoint", "serve": serve}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    url, picture = f"http://127.0.0.1:{port}", encoded(photo(), "JPEG", quality=90)
    nodes = Nodes(tmp_path / "nodes")
    try:
        nodes.add("node1")
        lost = nodes.add("node2")
        sent = radet("submit", str(tmp_path / "job.yaml"), "--address", nodes.dashboard, "--no-wait")
        assert sent.returncode == 0, sent.stderr
        eventually(lambda: _is_ready(url, scorers=2), 300)
        with load(url, picture, workers=3) as answers:
            eventually(lambda: len(answers) > 20)
            nodes.kill(lost)
            at = len(answers)
            eventually(lambda: sum(answer.status == 200 for answer in answers[at:]) > 40, 180)
        counts = Counter(answer.status for answer in answers)
        print(counts, [answer.body[:200] for answer in answers if answer.status not in (200, 503)][:5])
        assert Counter(answer.status for answer in answers[:20]) == {200: 20}
        assert all(answer.status == 200 for answer in answers[-20:])
        assert sum(count for status, count in counts.items() if status not in (200, 503)) <= 3, "those under way"
    finally:
        nodes.close()


def _is_ready(url: str, scorers: int) -> bool:
    try:
        metrics = ask(f"{url}/metrics", method="GET").body.decode()
    except urllib3.exceptions.HTTPError:
        return False
    return f'radet_replicas{{kind="scorer"}} {scorers}.0' in metrics


def wait_for_checkpoint(out: str, running: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 900
    while not any("checkpoint" in item.name for item in open_folder(out).list("_train/")):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < until, "no epoch ended"
        time.sleep(0.5)
