"""A run whose cluster has a GPU. Without one here Ray is told of a GPU that is not there: the same pipeline is built,
placed and begun, up to the detector, which says so."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.serve import ServeArgs, fronts_beside_gpus, require_room
from pipelines.sink import read_scores
from radet import Detector
from radet.errors import ConfigError

from .conftest import ROOT, write_corpus

_RUN = """
import sys
import ray
from pipelines.score import ScoreJob, Watcher, score
ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
score(ScoreJob(src=sys.argv[1], out=sys.argv[2]), Watcher())
"""


@pytest.mark.ray
def test_a_cluster_with_a_gpu_scores_on_it(photographs: list[Image.Image], tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    write_corpus(corpus, 12, photographs)
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, str(corpus), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if not torch.cuda.is_available():
        assert ended.stderr.rstrip().endswith("device cuda: torch finds no CUDA device here; use device cpu")
        return
    assert ended.returncode == 0, ended.stderr
    rows = {row["id"]: row["logit"] for row in read_scores(str(out)).to_pylist()}
    alone = Detector.from_pretrained("radet-lite").score(sorted(corpus.rglob("*.jpg")))
    assert rows == pytest.approx({f"{one.id}": one.logit for one in alone}, abs=1e-3)


@pytest.mark.parametrize(
    ("cores", "scorers", "fronts"), [(16, 1, 4), (16, 8, 4), (12, 8, 2), (8, 8, 0), (4, 1, 1), (2, 1, 0)]
)
def test_fronts_and_scorers_fit_on_the_machine(cores: int, scorers: int, fronts: int) -> None:
    args = ServeArgs(gpus=1, max_replicas=scorers, **fronts_beside_gpus(cores, scorers))
    assert args.fronts == fronts
    require_room(args.model_copy(update={"min_replicas": scorers}), {"CPU": cores, "GPU": scorers})


def test_scorers_without_a_gpu_or_a_core_are_refused() -> None:
    with pytest.raises(ConfigError, match="a scorer wants 1 GPU, and Ray finds 0 here"):
        require_room(ServeArgs(gpus=1), {"CPU": 64})
    with pytest.raises(ConfigError, match="2 scorers want 6 CPUs, and Ray finds 5 here"):
        require_room(ServeArgs(gpus=1, min_replicas=2, max_replicas=2, fronts=2, front_cpus=2), {"CPU": 5, "GPU": 2})
    require_room(ServeArgs(max_replicas=64), {"CPU": 1})  # more come where there is room
