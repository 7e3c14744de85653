"""Training on real Ray, as a user runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipelines.feed import RayFeed
from pipelines.labelled import Labelled, list_labelled
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from pipelines.train import TrainJob, TrainWatcher, _asked, train, workers_on
from pipelines.training_plan import TrainingPlan
from pipelines.training_state import require_free
from radet import Detector
from radet.errors import ConfigError
from radet.order import Portion
from radet.recipe import OptimiserConfig, Recipe

from .conftest import RADET, ROOT, as_a_user
from .s3_server import S3Server
from .training import feed_of, tiny_recipe, write_encoder, write_tree

pytestmark = pytest.mark.ray

EPOCHS = 2


class Corpus:
    """Trees, a recipe, and `radet train` over them."""

    def __init__(self, root: Path, photographs: list[Image.Image]) -> None:
        self.root = root
        self.train = write_tree(root / "train", photographs, 64)
        self.val = write_tree(root / "val", photographs, 40, seed=1)
        self.broken = self.train / "source0" / "0_real" / "broken.png"
        self.broken.write_bytes(b"no picture")
        self.recipe = replace(tiny_recipe(write_encoder(root / "encoder")), epochs=EPOCHS, attribution=True)
        self.config = self.write(self.recipe)

    def write(self, recipe: Recipe) -> Path:
        file = self.root / f"{recipe.epochs}.yaml"
        plain = json.loads(json.dumps(asdict(recipe)))  # tuples as lists
        file.write_text(yaml.safe_dump(plain), encoding="utf-8")
        return file

    def command(
        self, out: object, *options: str, config: Path | None = None, data: Path | None = None, val: Path | None = None
    ) -> list[str]:
        pictures = [str(data or self.train), "--val", str(val or self.val)]
        return [RADET, "train", *pictures, "--config", str(config or self.config), "--out", str(out), *options]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, photographs: list[Image.Image]) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"), photographs)


def run(command: list[str], **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, env=as_a_user() | env, capture_output=True, text=True, check=False, timeout=300)


def history(out: object) -> list[dict[str, Any]]:
    text = open_folder(str(out)).read("metrics.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    done = run(corpus.command(out, "--workers", "1"))
    assert done.returncode == 0, done.stderr
    for words in ("Measuring the controls", "Best epoch", "Checkpoint:", "1 pictures could not be read", "broken.png"):
        assert words in done.stderr
    assert f"; score with it: radet score SRC --model {out} --out OUT\n" in done.stderr
    return out


def test_one_command_gives_a_calibrated_checkpoint(corpus: Corpus, trained: Path) -> None:
    detector = Detector.from_pretrained(trained)
    paths = sorted(str(path) for path in corpus.val.rglob("*.png"))
    assert all(score.verdict is not None and score.p_generated is not None for score in detector.score(paths))
    assert {score.generator for score in detector.score(paths)} <= {None, "unknown", "source0", "source1", "source2"}
    assert len(history(trained)) == EPOCHS
    assert any((trained / "tensorboard").iterdir())
    assert "radet train" in (trained / "README.md").read_text(encoding="utf-8")
    assert run([RADET, "models", "selftest", str(trained)]).returncode == 0


def test_a_published_rival_is_a_recipe(corpus: Corpus, tmp_path: Path) -> None:
    """jobs/train-ferretnet.yaml: a residual CNN, no probe and no encoder pass."""
    given = Recipe.read(ROOT / "jobs" / "train-ferretnet.yaml")
    tiny = corpus.recipe
    small = {name: getattr(tiny, name) for name in ("encoder", "crop", "lowlevel_width", "augment")}
    batches = {"global_batch": 8, "micro_batch": 4}
    file = corpus.write(replace(given, epochs=6, **batches, optimiser=OptimiserConfig(rate=0.01), **small))
    done = run(corpus.command(tmp_path / "out", config=file))
    assert done.returncode == 0, done.stderr
    assert ("Begun with 1 worker" if len(os.sched_getaffinity(0)) == 1 else "Begun with 2 workers") in done.stderr
    assert "NaN" not in done.stderr + (tmp_path / "out" / "metrics.jsonl").read_text()
    epoch = history(tmp_path / "out")[-1]
    assert {"val_auroc", "val_auroc_lowlevel"} <= set(epoch)
    assert not {"drift_real", "val_auroc_semantic"} & set(epoch)
    picture = next((corpus.val / "source0" / "0_real").iterdir())
    (score,) = Detector.from_pretrained(tmp_path / "out").score([picture])
    assert (score.status, score.drift_cosine, score.logit_semantic) == ("ok", None, None)
    assert score.logit is not None
    assert score.logit_lowlevel is not None


ASKED = """
import os, ray
from pipelines.cluster import connected
from ray.dashboard.utils import get_address_for_submission_client as asked
with connected(None):
    print(ray.get(ray.remote(asked).remote(None)), os.environ.get("RAY_API_SERVER_ADDRESS"))
"""


def test_another_cluster_on_the_machine_is_left_out_of_it() -> None:
    """Ray Train asks whether its controller lives at Ray's usual dashboard, and another cluster's knows none there."""
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["http://127.0.0.1:9", "None"], done.stderr


@pytest.mark.parametrize(
    ("cores", "micro_batch", "workers"),
    [(1, 8, 1), (2, 8, 2), (3, 8, 3), (4, 8, 4), (6, 8, 4), (8, 8, 8), (64, 8, 8), (64, 64, 1)],
)
def test_a_worker_a_core_as_far_as_micro_batches_go_round(
    corpus: Corpus, cores: int, micro_batch: int, workers: int
) -> None:
    assert workers_on(cores, replace(corpus.recipe, global_batch=64, micro_batch=micro_batch)) == workers


def test_a_worker_a_gpu_where_gpus_are_asked_for(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": 4.0})
    recipe = replace(corpus.recipe, global_batch=64, micro_batch=8)
    job = TrainJob(recipe=recipe, data="", val="", out="", gpus=True)
    assert _asked(job) == 4
    assert _asked(replace(job, gpus=False)) == 8
    assert _asked(replace(job, address="auto")) == 1
    assert _asked(replace(job, workers=3)) == 3


def test_workers_that_would_have_nothing_to_do_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    file = corpus.write(replace(corpus.recipe, global_batch=8, micro_batch=4))
    done = run(corpus.command(tmp_path / "out", "--workers", "1:3", config=file))
    assert done.returncode == 2
    assert "a step has work for 2" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("example", ["jobs/train.yaml", "cluster/kuberay/rayjob-train.yaml", "README.md"])
def test_the_workers_of_every_example_have_work(example: str) -> None:
    text = (ROOT / example).read_text(encoding="utf-8")
    recipes = re.findall(r"jobs/(train-(?:clip|dino)[a-z0-9-]*)\.yaml", text)
    most = re.findall(r"workers(?: |=|: \")2:(\d+)", text)
    assert recipes
    for recipe, workers in zip(recipes, most, strict=True):
        given = Recipe.read(ROOT / "jobs" / f"{recipe}.yaml")
        assert given.global_batch // given.micro_batch >= int(workers)


def test_a_run_that_was_begun_is_not_overwritten(corpus: Corpus, trained: Path) -> None:
    done = run(corpus.command(trained))
    assert done.returncode == 2
    assert "--resume" in done.stderr


def test_a_run_goes_on_with_what_it_was_begun_with(corpus: Corpus, trained: Path, tmp_path: Path) -> None:
    config = corpus.write(replace(corpus.recipe, dropout=0.3, epochs=EPOCHS + 1))
    val = Path(shutil.copytree(corpus.val, tmp_path / "val"))
    done = run(corpus.command(trained, "--resume", "--address", "127.0.0.1:1", config=config, val=val))
    *_, told = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert f"since {trained} was begun these have changed: the validation pictures, the recipe's dropout; " in told


class SecondRun(TrainWatcher):
    """The same command again, as soon as a run has begun; then that one is stopped."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def opened(self, training: Labelled, validation: Labelled) -> None:
        self.done = run(self._command)
        raise KeyboardInterrupt


@pytest.mark.s3
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("place", ["local", "s3"])
def test_one_run_at_a_time_writes_to_an_output(corpus: Corpus, s3: S3Server, tmp_path: Path, place: str) -> None:
    out = str(tmp_path / "out") if place == "local" else s3.url(f"train-twice/{os.getpid()}")
    second = SecondRun(corpus.command(out, "--resume"))
    job = TrainJob(recipe=corpus.recipe, data=str(corpus.train), val=str(corpus.val), out=out, workers=1)
    with pytest.raises(KeyboardInterrupt):
        train(job, second)
    assert second.done.returncode == 2, second.done.stderr
    assert f"another run is writing to {out}/_train" in second.done.stderr
    require_free(out, resume=False)  # what was refused, and what was stopped before its work, are no runs


def test_what_a_worker_refuses_is_told_in_a_line_and_not_tried_again(corpus: Corpus, tmp_path: Path) -> None:
    data = Path(shutil.copytree(corpus.train, tmp_path / "train"))
    for path in data.rglob("1_fake/*.png"):
        path.write_bytes(b"")
    done = run(corpus.command(tmp_path / "out", "--workers", "2", data=data))
    *_, told = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert told.startswith("radet: the linear probe met no generated training picture that can be read; ")
    assert f"{data}/source0/0_real/broken.png: no known image signature" in told
    assert f"{data}/source0/1_fake/003.png: " in told
    assert "Begun with 2 workers" in done.stderr
    assert "Workers were lost" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.s3
def test_two_workers_and_s3_give_the_losses_of_one(corpus: Corpus, trained: Path, s3: S3Server) -> None:
    out = s3.url(f"train/{os.getpid()}")
    done = run(corpus.command(out, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    for name in ("loss", "classification", "drift_real"):
        ours, theirs = ([epoch[name] for epoch in history(place)] for place in (out, trained))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert any(item.name == "model.safetensors" for item in open_folder(out).list(""))


@pytest.mark.slow
def test_pictures_in_parquet_train_the_same_detector(corpus: Corpus, trained: Path, tmp_path: Path) -> None:
    for name, tree in (("train", corpus.train), ("val", corpus.val)):
        listed = list_labelled(str(tree))
        table = pa.table(
            {
                "image": [Path(location).read_bytes() for location in listed.locations],
                "label": listed.generated.astype(int),
                "generator": listed.sources,
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=8)  # one digit: locations sort as rows do
    out, config = tmp_path / "checkpoint", ["--config", str(corpus.config)]
    data = [str(tmp_path / "train.parquet"), "--val", str(tmp_path / "val.parquet")]
    command = [RADET, "train", *data, *config, "--out", str(out), "--workers", "1"]
    done = run(command, RADET_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "1 pictures could not be read" in done.stderr
    assert history(out) == history(trained)


@pytest.mark.slow
def test_an_evaluation_shows_which_generator(corpus: Corpus, trained: Path, tmp_path: Path) -> None:
    done = run([RADET, "evaluate", str(corpus.val), "--model", str(trained), "--out", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["attribution"].values()
    assert found["columns"] == ["source0", "source1", "source2", "unknown", "real"]
    assert [row["name"] for row in found["rows"]] == ["source0", "source1", "source2"]
    assert sum(sum(row["counts"]) for row in found["rows"]) == 20
    rows = read_scores(f"{tmp_path}/scores/tiny", columns=["generator", "verdict"]).to_pylist()
    assert {row["generator"] is None for row in rows if row["verdict"] == "real"} <= {True}
    assert all(row["generator"] is not None for row in rows if row["verdict"] != "real")
    assert "Which generator, by tiny" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("ray_session")
def test_rays_feed_is_the_local_one(corpus: Corpus) -> None:
    told: dict[str, str] = {}
    listed = [list_labelled(str(folder)) for folder in (corpus.train, corpus.val)]
    plan = TrainingPlan.of(2.0, nodes=1, workers=1, gpus=False, alone=False)
    ours = RayFeed(*listed, corpus.recipe, told.update, plan=plan)
    theirs = feed_of(corpus.recipe, corpus.train, corpus.val)
    assert ours.sources == theirs.sources
    assert (ours.generated == theirs.generated).all()
    broken = listed[0].locations.index(str(corpus.broken))
    steps = [[Portion(0, np.array([3, 1, broken, 60])), Portion(1, np.array([0]))], [Portion(0, np.array([7, 8]))]]
    for got, expected in zip(ours.batches(2, steps), theirs.batches(2, steps), strict=True):
        for a, b in zip(got, expected, strict=True):
            assert a.number == b.number
            assert np.array_equal(a.crops, b.crops)
            assert np.array_equal(a.label, b.label)
            assert np.array_equal(a.pictures, b.pictures)
    assert all(np.array_equal(a, b) for a, b in zip(ours.reference(), theirs.reference(), strict=True))
    share = range(1, 24, 2)
    pairs = zip(ours.validation(share), theirs.validation(share), strict=True)
    assert all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
    assert told.keys() == theirs.broken.keys() == {str(corpus.broken)}


def test_manifests_are_labelled_by_their_columns(corpus: Corpus, tmp_path: Path) -> None:
    tree = list_labelled(str(corpus.train))
    lines = [
        f"{location},{'fake' if generated else 'real'},{source}"
        for location, generated, source in zip(tree.locations, tree.generated, tree.sources, strict=True)
    ]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["uri,label,generator", *lines, "x.png,unknown,y"]) + "\n", encoding="utf-8")
    read = list_labelled(str(manifest))
    assert read.locations == tree.locations
    assert (read.generated == tree.generated).all()
    assert read.sources == tree.sources
    assert read.skipped == 1


def test_data_that_teaches_nothing_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no labels"):
        list_labelled(str(corpus.root / "encoder"))
    data = write_only_real(tmp_path)
    shutil.copytree(data / "0_real", data / "generated")  # as labels go, a word and no folder
    with pytest.raises(
        ConfigError, match=r"real pictures only, and 1 without a label: .* folder .0_real, real, nature; 1_"
    ):
        list_labelled(str(data))
    (tmp_path / "words.csv").write_text("uri,label\na.png,human\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no labels: .* a label column .real/fake or 0/1."):
        list_labelled(str(tmp_path / "words.csv"))


def write_only_real(folder: Path) -> Path:
    (folder / "0_real").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0_real" / "a.png")
    return folder


def trainers(driver: int) -> list[psutil.Process]:
    """This driver's own: others may be training on the machine too."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_trainer(driver: int, deadline: float = 120) -> None:
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        for process in trainers(driver)[:1]:
            process.kill()
            return
        time.sleep(0.1)
    raise AssertionError("no training worker")


def wait_for_epoch(out: Path) -> None:
    """Until Ray Train has written down that an epoch is saved: its controller does so up to seconds after the files are
    there, and what it has not written down is trained again."""
    snapshot = out / "_train" / "checkpoint_manager_snapshot.json"
    until = time.monotonic() + 200
    while time.monotonic() < until:
        with suppress(FileNotFoundError, json.JSONDecodeError):  # not there yet, or half written
            if json.loads(snapshot.read_text(encoding="utf-8"))["checkpoint_results"]:
                return
        time.sleep(0.1)
    raise AssertionError("no epoch ended")


@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_cost_an_epoch_at_most(
    corpus: Corpus, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = subprocess.Popen(corpus.command(out), start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for_epoch(out)
    cores = sorted(os.sched_getaffinity(0))
    kept_to = [trainer.cpu_affinity() for trainer in trainers(first.pid)]
    kill_trainer(first.pid)
    time.sleep(5)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    if len(kept_to) == len(cores):  # they fill the machine
        assert sorted(kept_to) == [[core] for core in cores]
    done = run(corpus.command(out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "Going on from epoch" in done.stderr
    assert [epoch["epoch"] for epoch in history(out)] == list(range(EPOCHS))
    Detector.from_pretrained(out)
