"""A run whose cluster has a GPU. Without one here Ray is told of a GPU that is not there: the same pipeline is built,
placed and begun, up to the detector, which says so."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines.serve import ServeArgs, fronts_beside_gpus, require_room
from pipelines.sink import read_scores
from radet import Detector
from radet.clip import PlainNorm
from radet.config import Precision
from radet.detector import CUDA_BATCH
from radet.errors import ConfigError
from radet.patch_conv import PatchConv
from radet.selftest import pictures, selftest
from radet.tensors import steady_arithmetic

from .conftest import ROOT
from .corpus import write_corpus

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

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
        assert ended.stderr.rstrip().endswith("device cuda: torch finds no such CUDA device here; use device cpu")
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


@on_a_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["radet-lite", "radet-clip-b16"])
def test_a_detector_on_a_gpu(model: str, precision: Precision) -> None:
    """Golden scores, no floor to speak of, and pictures that do not know what passes beside them."""
    detector = Detector.from_pretrained(model, device="cuda", precision=precision)
    tested = selftest(detector)
    assert tested.floor_share < (1e-6 if model == "radet-clip-b16" or precision == "fp32" else 1e-2)
    crops = np.concatenate([pictures(detector.config.crop.size)] * (CUDA_BATCH // 4 + 2))  # more than one chunk
    many, few = detector.evidence(crops), detector.evidence(crops[:4])
    assert many.logit is not None
    assert few.logit is not None
    np.testing.assert_allclose(
        many.logit, np.tile(few.logit, len(crops) // 4), atol=1e-4 if precision == "fp32" else 1e-2
    )


@on_a_gpu
def test_norms_and_patches_on_a_gpu() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 7, 64, device="cuda").bfloat16()
    with torch.autocast("cuda", torch.bfloat16):
        found = PlainNorm(nn.LayerNorm(64))(x)
    assert found.dtype is torch.bfloat16, "autocast would make it fp32"
    torch.testing.assert_close(found.float(), nn.functional.layer_norm(x.float(), (64,)), rtol=2**-8, atol=1e-6)
    conv, pixels = nn.Conv2d(3, 32, 16, stride=16).cuda().requires_grad_(False), torch.rand(9, 3, 64, 64).cuda()
    with steady_arithmetic():
        torch.testing.assert_close(PatchConv(conv)(pixels), conv(pixels), rtol=1e-5, atol=1e-5)
