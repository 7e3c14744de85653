"""Which generator made it: the softmax probe, what it does not know, and the name in a checkpoint's scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

from radet.attribution import Attribution, Sample, families_of, fit_attribution, name_families
from radet.config import UNKNOWN, AttributionConfig, DetectorConfig
from radet.errors import ConfigError, ModelError
from radet.evaluation import confusion
from radet.explain import explain
from radet.finish import Provenance, finish
from radet.linear_probe import fit_softmax_probe
from radet.loop import Run, Watcher
from radet.peers import linear_detector
from radet.rows import read_row
from radet.training import new_detector

from .training import SIZE, feed_of, tiny_recipe, write_encoder, write_tree

D, K = 12, 3
COLOURS = {"source0": 0, "source1": 1, "source2": 2}


def clusters(count: int, *, seed: int, families: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of each family around its own place, three standard deviations apart."""
    generator = torch.Generator().manual_seed(seed)
    family_N = torch.arange(count) % families
    return torch.randn(count, D, generator=generator) + 4 * nn.functional.one_hot(family_N, D), family_N


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_the_softmax_probe_is_the_optimum(penalty: float) -> None:
    x_ND, family_N = clusters(150, seed=0)
    x_ND = x_ND + 3 * torch.randn(x_ND.shape, generator=torch.Generator().manual_seed(1))
    linear = nn.Linear(D, K).requires_grad_(False)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    fit_softmax_probe(linear, x_ND, family_N, penalty=penalty)
    library = LogisticRegression(C=1 / (penalty * len(x_ND)), tol=1e-8, max_iter=1000)
    library.fit(x_ND.numpy(), family_N.numpy())
    np.testing.assert_allclose(linear.weight.numpy(), library.coef_, atol=2e-3)
    np.testing.assert_allclose((linear.bias - linear.bias.mean()).numpy(), library.intercept_, atol=2e-3)


def fitted() -> tuple[Attribution, AttributionConfig]:
    x_ND, family_N = clusters(300, seed=0)
    head = Attribution(D, K)
    sample = Sample(x_ND, np.arange(len(x_ND)), family_N)
    return head, fit_attribution(head, ("a", "b", "c"), sample, listed=len(x_ND), penalty=0.1)


def test_families_are_told_apart_and_a_picture_that_is_like_none_is_unknown() -> None:
    head, config = fitted()
    assert config.held_out == 60
    assert config.accuracy > 0.95
    assert config.kept == pytest.approx(0.9, abs=0.02)
    x_ND, family_N = clusters(300, seed=5)
    with torch.no_grad():
        named = name_families(head(x_ND).double().numpy(), config)
        elsewhere = name_families(head(torch.randn(300, D) - 2).double().numpy(), config)
    right = [name == config.families[family] for name, family in zip(named, family_N, strict=True)]
    assert 0.8 < np.mean(right) < 0.97  # a tenth is lost to "unknown"
    assert np.mean([name == UNKNOWN for name in elsewhere]) > 0.8


def test_views_and_ranks_change_nothing() -> None:
    """The same pictures twice, and as the sum of two ranks that have half each."""
    x_ND, family_N = clusters(100, seed=3)
    pictures_N = np.arange(100)
    once, twice = Attribution(D, K), Attribution(D, K)
    families = ("a", "b", "c")
    first = fit_attribution(once, families, Sample(x_ND, pictures_N, family_N), listed=100, penalty=0.1)
    doubled = Sample(torch.cat([x_ND, x_ND]), np.concatenate([pictures_N, pictures_N]), torch.cat([family_N, family_N]))
    second = fit_attribution(twice, families, doubled, listed=100, penalty=0.1)
    assert second.held_out == first.held_out == 20
    assert (second.accuracy, second.kept) == (first.accuracy, first.kept)
    assert second.least_energy == pytest.approx(first.least_energy, rel=1e-3)

    # This rank has the first half; what it hands to `reduce` is completed by the other one, which has the same.
    half = Attribution(D, K)
    mine = Sample(x_ND, pictures_N, family_N)
    third = fit_attribution(half, families, mine, listed=100, penalty=0.1, reduce=lambda tensor: tensor.mul_(2))
    np.testing.assert_allclose(half.linear.weight.numpy(), once.linear.weight.numpy(), atol=1e-3)
    assert third.held_out == 20
    assert third.least_energy == pytest.approx(first.least_energy, rel=1e-3)


def test_the_families_are_those_of_generated_pictures() -> None:
    assert families_of(np.array([True, False, True, True]), ["b", "camera", "a", "b"]) == ("a", "b")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory, photographs: list[Image.Image]) -> tuple[Path, Path]:
    """Generated pictures of three sources; each is tinted in a colour of its own."""
    root = tmp_path_factory.mktemp("trees")
    found = write_tree(root / "train", photographs, 96), write_tree(root / "val", photographs, 48, seed=1)
    for file in root.rglob("1_fake/*.png"):
        pixels = np.array(Image.open(file))
        pixels[:, :, COLOURS[file.parent.parent.name]] //= 2
        Image.fromarray(pixels).save(file)
    return found


def test_a_checkpoint_names_generators(trees: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(write_encoder(tmp_path / "encoder")), epochs=1, attribution=True)
    feed = feed_of(recipe, *trees)
    families = families_of(feed.generated, feed.sources)
    assert families == ("source0", "source1", "source2")
    run = Run(new_detector(recipe, families=families), recipe, feed)
    run.go(Watcher())
    run.save(tmp_path / "state")
    again = Run(new_detector(recipe, families=families), recipe, feed)
    again.load(tmp_path / "state")
    provenance = Provenance(
        training="these", validation="those", validation_generated=feed.validation_generated,
        validation_sources=["x"] * len(feed.validation_generated), broken=0, command="test",
    )  # fmt: skip
    detector = finish(again, provenance, tmp_path / "checkpoint")
    card = (tmp_path / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "source0, source1, source2" in card
    assert detector.config.heads is not None
    assert detector.config.heads.attribution is not None
    assert detector.config.heads.attribution.accuracy > 0.6

    files = sorted(trees[1].rglob("1_fake/*.png"))
    scores = detector.score([str(file) for file in files])
    assert all((score.generator is None) == (score.verdict == "real") for score in scores)
    named = [(score.generator, file.parent.parent.name) for score, file in zip(scores, files, strict=True)]
    told = [(said, made) for said, made in named if said not in {None, UNKNOWN}]
    assert len(told) > 5
    assert np.mean([said == made for said, made in told]) > 0.6

    sentences = {
        score.generator: " ".join(explain(detector, file).sentences) for score, file in zip(scores, files, strict=True)
    }
    for name, words in sentences.items():
        assert ("most like" in words) == (name in families)
        assert ("like none of the 3 generators" in words) == (name == UNKNOWN)

    linear = linear_detector(detector)
    assert linear is not None
    assert linear.score([str(files[0])])[0].generator is None

    crops = np.stack([crop for file in files if (crop := read_row(file, 0, detector.config.crop).crop) is not None])
    assert crops.shape[1:] == (SIZE, SIZE, 3)
    together, alone = detector.evidence(crops), detector.evidence(crops[:1])
    assert together.generator is not None
    assert alone.generator is not None
    assert together.generator[0] == alone.generator[0]


def test_without_it_nothing_is_stored(tmp_path: Path) -> None:
    recipe = tiny_recipe(write_encoder(tmp_path / "encoder"))
    detector = new_detector(recipe, families=("a", "b"))
    assert not [name for name in detector.own_tensors() if "attribution" in name]


def test_one_generator_cannot_be_told_apart(tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(write_encoder(tmp_path / "encoder")), attribution=True)
    with pytest.raises(ConfigError, match="fewer than two generators"):
        new_detector(recipe, families=("only",))
    with pytest.raises(ConfigError, match="rename it"):
        new_detector(recipe, families=("a", UNKNOWN))
    with pytest.raises(ConfigError, match="needs the semantic branch"):
        replace(recipe, branches=("discrepancy", "lowlevel"))
    with pytest.raises(ModelError, match="unknown"):
        AttributionConfig(families=("a", UNKNOWN))


def test_a_config_keeps_it(tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(write_encoder(tmp_path / "encoder")), attribution=True)
    config = new_detector(recipe, families=("a", "b")).config
    (tmp_path / "config.json").write_text(config.to_json(), encoding="utf-8")
    assert DetectorConfig.read(tmp_path) == config


def test_confusion_counts_by_hand() -> None:
    named = ["a", "a", "b", None, "unknown", "a", "unknown", None, None, "a"]
    sources = ["a", "a", "a", "a", "b", "New", "New", "New", "camera", "b"]
    counted = np.array([True, True, True, True, True, True, True, True, False, False])
    found = confusion(named, counted, sources, ("a", "b"))
    assert found["columns"] == ["a", "b", "unknown", "real"]
    assert found["rows"] == [
        {"name": "a", "known": True, "counts": [2, 1, 0, 1]},
        {"name": "b", "known": True, "counts": [0, 0, 1, 0]},
        {"name": "New", "known": False, "counts": [1, 0, 1, 1]},
    ]
    assert found["accuracy"] == pytest.approx(2 / 4)
    assert found["unseen_unknown"] == pytest.approx(1 / 2)
    odd = confusion(["real", None], np.array([True, True]), ["real", "a"], ("a", "real"))
    assert [row["counts"] for row in odd["rows"]] == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert confusion([], np.empty(0, bool), [], ("a", "b"))["accuracy"] is None
