"""What an analysis says, against what the detector, the controls and plain statistics say."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.plots_analysis import draw
from radet.analysis import EMBEDDING, Analysis, LayerRow, analyse
from radet.config import ProbeConfig, ProbeKind
from radet.controls import run_controls
from radet.detector import Detector
from radet.errors import ConfigError
from radet.findings import sentences, tables, to_dict
from radet.fit import refit
from radet.metrics import auroc
from radet.passes import EPSILONS
from radet.separation import ALL, LEAST, separate, spreads
from radet.shift_bound import bound_shift
from radet.training import new_detector

from .training import SIZE, tiny_recipe, write_encoder

GENERATED = np.arange(60) % 2 == 1
SOURCES = [("made" if label else "seen") + str(number % 3) for number, label in enumerate(GENERATED)]


@pytest.fixture(scope="module")
def crops() -> NDArray[np.uint8]:
    """Smooth pictures; generated ones have noise on top."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(60, 190, (60, 1, 1, 3)) + np.linspace(0, 30, SIZE)[None, :, None, None]
    noise = rng.normal(size=(60, SIZE, SIZE, 3)) * np.where(GENERATED, 25, 8)[:, None, None, None]
    return (smooth + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory, crops: NDArray[np.uint8]) -> Detector:
    detector = new_detector(tiny_recipe(write_encoder(tmp_path_factory.mktemp("encoder"))))
    refit(detector, crops[~GENERATED], source="noise")
    return detector


@pytest.fixture(scope="module")
def analysis(detector: Detector, crops: NDArray[np.uint8]) -> Analysis:
    return analyse(detector, crops, GENERATED, SOURCES)


@pytest.mark.parametrize(("made", "larger"), [(1, "undecided"), (LEAST - 1, "undecided"), (LEAST, "generated")])
def test_a_handful_of_pictures_decides_nothing_even_where_they_lie_apart(made: int, larger: str) -> None:
    generated = np.arange(200) < made
    for sign, expected in ((1, larger), (-1, "real" if larger == "generated" else larger)):
        found, _ = separate(sign * generated, generated, ["source"] * 200, seed=0)
        assert found.auroc == (sign > 0)
        assert found.larger == expected
        assert found.high - found.low == pytest.approx(1 - 0.025 ** (1 / made))


def test_so_few_pictures_that_controls_tell_nothing_are_said_to_be(analysis: Analysis) -> None:
    said, of_few = (" ".join(sentences(one)) for one in (analysis, replace(analysis, generated=LEAST - 1)))
    assert "too few to tell what explains it" in of_few
    assert "too few to tell what explains it" not in said


def test_plots_show_any_name(analysis: Analysis) -> None:
    """A formula that is none, none at all, and two that are one once they are cut."""
    names = {"made0": r"gen$\frac{1}$", "made1": "x" * 40 + "1", "made2": "x" * 40 + "2", "seen0": "", "seen1": "相机"}

    def renamed(row: LayerRow) -> LayerRow:
        return row._replace(found=row.found._replace(source=names.get(row.found.source, row.found.source)))

    layers = tuple(renamed(row) for row in analysis.layers)
    sources = tuple(row._replace(source=names.get(row.source, row.source)) for row in analysis.sources)
    plots = draw(replace(analysis, layers=layers, sources=sources))
    assert {"plot_sources", "plot_layers_by_generator"} <= set(plots)


def test_its_drift_is_the_detector_s(analysis: Analysis, detector: Detector, crops: NDArray[np.uint8]) -> None:
    drift = detector.evidence(crops).drift_cosine
    assert drift is not None
    found = analysis.separations[0]
    assert (found.source, found.generated, found.real) == (ALL, 30, 30)
    assert found.auroc == pytest.approx(auroc(drift, GENERATED), abs=0.01)
    assert found.median_generated == pytest.approx(np.median(drift[GENERATED]), rel=1e-3)
    assert found.low <= found.auroc <= found.high
    assert [row.source for row in analysis.separations[1:]] == ["made0", "made1", "made2"]
    assert [row.source for row in analysis.sources] == ["seen0", "seen1", "seen2", "made0", "made1", "made2"]


def test_every_block_is_there_and_the_last_layer_is_the_drift(analysis: Analysis) -> None:
    own = [row for row in analysis.layers if (row.perturbation, row.measure) == ("drp", "cosine")]
    assert list(dict.fromkeys(row.layer for row in own)) == ["block 0", "block 1", EMBEDDING]
    assert [row.found for row in own if row.layer == EMBEDDING] == list(analysis.separations)
    assert {(row.perturbation, row.measure) for row in analysis.layers} == {
        (perturbation, measure) for perturbation in ("drp", "gaussian") for measure in ("cosine", "relative_l2")
    }


def test_the_sweep_passes_through_the_checkpoint_s_own_strength(analysis: Analysis) -> None:
    own = [row.found for row in analysis.sweep if (row.perturbation, row.strength) == ("drp", 16 / 255)]
    assert analysis.own_strength == 16 / 255
    assert [found.auroc for found in own] == pytest.approx([found.auroc for found in analysis.separations], abs=0.01)
    drifts = [row.found.median_real for row in analysis.sweep if (row.perturbation, row.found.source) == ("drp", ALL)]
    assert len(drifts) == len(EPSILONS)
    assert drifts == sorted(drifts), "a stronger perturbation moves more"


def test_controls_are_the_controls(analysis: Analysis, detector: Detector, crops: NDArray[np.uint8]) -> None:
    assert analysis.controls is not None
    found = run_controls(detector, crops, GENERATED)
    assert analysis.controls["learned"] == found["learned"]
    assert analysis.controls["norm"].drift == found["norm"].drift


def test_divergences_are_of_every_layer_and_find_the_noise(analysis: Analysis) -> None:
    assert len(analysis.divergences) == 3 * 2, "ten pictures of a source are too few, thirty of all are not"
    assert {row.estimator for row in analysis.divergences} == {"gaussian", "knn"}
    assert all(row.found.value > row.found.chance for row in analysis.divergences if row.layer == EMBEDDING)
    assert all(0 < share <= 1 for share in analysis.explained.values())


def test_the_bound_is_vacuous_and_the_words_say_so(analysis: Analysis) -> None:
    (row,) = [row for row in analysis.divergences if (row.layer, row.estimator) == (EMBEDDING, "gaussian")]
    for bound in analysis.bound["gaussian"]:
        assert bound.divergence == pytest.approx(row.found.value / 2)
        assert not bound.informative
    smallest = analysis.bound["gaussian"][0]
    assert smallest.measured.value == pytest.approx(smallest.first_order, rel=0.5), "to first order"
    assert any("vacuous" in sentence for sentence in sentences(analysis))


def test_a_bound_is_no_promise_where_its_parts_are_uncertain(analysis: Analysis) -> None:
    def said(energies: list[float], divergence: float) -> str:
        bound = bound_shift(
            1.0, energies, [0.3, 0.5, 0.1, 0.1], np.array([True, True, False, False]), divergence, seed=0
        )
        assert bound.informative
        return sentences(replace(analysis, bound={"knn": (bound,)}))[-1]

    assert "is positive at 1 of 1" in said([8.0, 10.0, 2.0, 4.0], 0.1)
    for energies, divergence in (([8.0, 10.0, 2.0, 4.0], -0.9), ([0.0, 12.0, 2.0, 4.0], 0.1)):
        assert "is positive" not in said(energies, divergence)
        assert "promises nothing" in said(energies, divergence)


def test_json_and_tables_hold_it_all(analysis: Analysis) -> None:
    document = json.loads(json.dumps(to_dict(analysis), allow_nan=False))
    assert document["schema_version"] == 1
    assert {name for name, rows in document["tables"].items() if rows} == set(tables(analysis))
    assert document["tables"]["generators"][0]["larger"] in {"generated", "real", "undecided"}
    assert len(document["findings"]) == 7


def test_another_reference_is_what_divergences_are_from(detector: Detector, crops: NDArray[np.uint8]) -> None:
    """Against themselves, generated pictures are no further than chance."""
    found = analyse(detector, crops, GENERATED, SOURCES, reference=crops[GENERATED])
    assert found.separate_reference
    (row,) = [row for row in found.divergences if (row.layer, row.estimator) == (EMBEDDING, "gaussian")]
    assert row.reference == 30
    assert row.found.value <= row.found.chance


def test_the_sign_is_named() -> None:
    value = np.where(GENERATED, 0.0, 1.0) + 0.01 * np.arange(60)
    found = separate(value, GENERATED, SOURCES, 0)[0]
    assert (found.auroc, found.larger) == (0.0, "real")
    assert separate(-value, GENERATED, SOURCES, 0)[0].larger == "generated"
    mixed = separate(np.arange(60) // 2, GENERATED, SOURCES, 0)[0]
    assert (mixed.auroc, mixed.larger) == (0.5, "undecided")
    row = spreads(np.arange(60), GENERATED, SOURCES)[0]
    assert (row.source, row.generated, row.pictures) == ("seen0", False, 10)
    assert row.p10 <= row.p25 <= row.p50 <= row.p75 <= row.p90


def test_what_cannot_be_compared_is_refused(detector: Detector, crops: NDArray[np.uint8]) -> None:
    with pytest.raises(ConfigError, match="give both"):
        analyse(detector, crops, np.ones(60, bool), SOURCES)
    with pytest.raises(ConfigError, match="give one of each"):
        analyse(detector, crops, GENERATED[:-1], SOURCES)
    with pytest.raises(ConfigError, match="give both"):
        analyse(detector, [], [], [])
    with pytest.raises(ConfigError, match="reference set has no picture"):
        analyse(detector, crops, GENERATED, SOURCES, reference=[])


@pytest.mark.parametrize("kind", get_args(ProbeKind))
def test_every_probe_has_words(detector: Detector, crops: NDArray[np.uint8], kind: ProbeKind) -> None:
    if kind != "drp":
        detector = Detector(
            replace(detector.config, probe=ProbeConfig(kind=kind), heads=None, reference=None), detector.encoder, None
        )
    found = analyse(detector, crops[:12], GENERATED[:12], SOURCES[:12])
    assert sentences(found)[0].startswith("Under ")
