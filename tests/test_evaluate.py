"""A whole evaluation on real Ray: trees as the benchmarks name them, every row accounted for, the scores of `score`."""

import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from pipelines.calibrate import CalibrateJob, calibrate
from pipelines.evaluate import EvaluateJob, EvaluateWatcher, Evaluation, _entrants, evaluate
from pipelines.evaluation_inputs import input_id
from pipelines.labelled import list_labelled
from pipelines.report import evaluation_page
from pipelines.score import Watcher
from pipelines.sink import read_scores
from radet import Detector
from radet.calibration import probability
from radet.config import DetectorConfig, model_id, resolve
from radet.degradations import NEUTRAL
from radet.errors import ConfigError
from radet.evaluation import confusion
from radet.metrics import expected_calibration_error
from radet.ranking import Ranking

from .browser import SIZES, chromium, violations

EACH = 7  # pictures of a folder; of each class three times as many

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def write_tree(root: Path, photographs: list[Image.Image], layout: dict[str, tuple[str, str]], each: int) -> Path:
    """`layout`: generator -> its folders of real and of generated pictures. The generated ones are oddly smooth."""
    rng = np.random.default_rng(0)
    for number, (generator, folders) in enumerate(sorted(layout.items())):
        for generated, folder in enumerate(folders):
            target = root / generator / folder
            target.mkdir(parents=True)
            for index in range(each):
                picture = photographs[(number + index) % len(photographs)].resize((300, 300))
                left, top = (int(v) for v in rng.integers(0, 60, 2))
                picture = picture.crop((left, top, left + 240, top + 240))
                if generated:
                    picture = picture.resize((60, 60)).resize((240, 240))
                picture.save(target / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def tree(photographs: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = {
        "progan/airplane": ("0_real", "1_fake"),  # Wang2020
        "Midjourney/val": ("nature", "ai"),  # GenImage
        "wukong": ("0_real", "1_fake"),  # AIGCDetectBenchmark
    }
    root = write_tree(tmp_path_factory.mktemp("evaluate") / "tree", photographs, layout, EACH)
    (root / "wukong" / "1_fake" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "wukong" / "1_fake" / "0.png").rename(root / "wukong" / "1_fake" / os.fsdecode(b"caf\xe9.png"))
    return root


@pytest.fixture(scope="module")
def found(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, EvaluateJob]:
    job = EvaluateJob(
        data=str(tree),
        models=("radet-lite",),
        out=str(tmp_path_factory.mktemp("evaluation")),
        suites="jpeg:50",
        neutral=True,
    )
    return evaluate(job, EvaluateWatcher()), job


def test_trees_of_the_benchmarks_are_read_rightly(tree: Path) -> None:
    listed = list_labelled(str(tree))
    assert sorted(set(listed.sources)) == ["Midjourney/val", "progan/airplane", "wukong"]
    assert len(listed.locations) == 6 * EACH + 1
    assert all(
        ("1_fake" in name or "/ai/" in name) == bool(g)
        for name, g in zip(listed.locations, listed.generated, strict=True)
    )


def test_scores_of_an_evaluation_are_those_of_the_detector(found: tuple[Evaluation, EvaluateJob]) -> None:
    evaluation, _ = found
    alone = Detector.from_pretrained("radet-lite").score(evaluation.labelled.locations)
    expected = np.array([np.nan if score.p_generated is None else score.p_generated for score in alone])
    assert np.allclose(evaluation.contenders[0].scored["clean"].p, expected, atol=1e-6, equal_nan=True)
    assert np.isnan(expected).sum() == 1


def test_every_picture_is_in_every_table_or_listed_as_failed(found: tuple[Evaluation, EvaluateJob]) -> None:
    evaluation, job = found
    assert evaluation.conditions == ["clean", "jpeg:50", NEUTRAL, f"{NEUTRAL}+jpeg:50"]
    names = [contender.name for contender in evaluation.contenders]
    assert names == ["radet-lite", *(f"radet-lite: {name} alone" for name in ("semantic", "discrepancy", "lowlevel"))]
    for name in names:
        for condition in evaluation.conditions:
            row = evaluation.row(name, condition)
            assert row is not None
            assert (row["real"], row["generated"], row["failed"]) == (3 * EACH, 3 * EACH, 1)
            assert np.isfinite(row["auroc"])
    document = json.loads((Path(job.out) / "metrics.json").read_text())
    assert document["software"]["ray"] == ray.__version__
    assert len(document["failures"]) == len(evaluation.conditions)
    assert {failure["status"] for failure in document["failures"]} == {"truncated"}
    assert len(document["results"]) == len(evaluation.rows)
    gmac, ms = ([detector[name] for detector in document["detectors"]] for name in ("gmac", "ms"))
    assert gmac[0] > 0.5
    # A branch costs the passes that it needs: one, two, and none but of its own pixels.
    assert gmac[3] < gmac[1] < gmac[2] < gmac[0]
    assert ms[3] < ms[1] < ms[0]


def test_a_picture_that_a_manifest_names_twice_counts_twice(tree: Path, tmp_path: Path) -> None:
    named = [(tree / "wukong" / folder / f"{index}.png", folder) for folder in ("0_real", "1_fake") for index in (1, 2)]
    lines = [json.dumps({"uri": str(path), "label": folder[2:]}) for path, folder in [*named, named[0]]]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    job = EvaluateJob(data=str(tmp_path / "list.jsonl"), models=("radet-lite",), out=str(tmp_path / "out"))
    row = evaluate(job, EvaluateWatcher()).row("radet-lite")
    assert row is not None
    assert (row["real"], row["generated"], row["failed"]) == (3, 2, 0)


def test_failures_are_those_of_the_pictures_and_conditions_that_were_asked_for(
    found: tuple[Evaluation, EvaluateJob], tree: Path, tmp_path: Path
) -> None:
    """OUT holds a broken picture under three more conditions, and then one that is no longer in the corpus."""
    _, job = found
    again = replace(job, out=str(shutil.copytree(job.out, tmp_path / "out")), suites="clean", neutral=False)
    (failure,) = evaluate(again, EvaluateWatcher()).failures
    assert failure["id"].startswith("clean!")
    named = [(tree / "wukong" / folder / "1.png", folder) for folder in ("0_real", "1_fake")]
    (tmp_path / "list.csv").write_text("uri,label\n" + "".join(f"{path},{folder[2:]}\n" for path, folder in named))
    fewer = evaluate(replace(again, data=str(tmp_path / "list.csv")), EvaluateWatcher())
    assert fewer.failures == []
    assert fewer.row("radet-lite")["real"] == 1


@pytest.mark.slow
def test_published_methods_run_in_the_same_loop(found: tuple[Evaluation, EvaluateJob], tmp_path: Path) -> None:
    evaluation, job = found
    more = evaluate(replace(job, peers=("radet-lite",), out=str(tmp_path), suites="", neutral=False), EvaluateWatcher())
    names = [contender.name for contender in more.contenders]
    assert {"linear probe", "RIGID", "MINDER"} <= set(names)
    assert len(names) >= 8
    for name in names:
        row = more.row(name)
        assert row is not None
        assert (row["real"], row["generated"], row["failed"]) == (3 * EACH, 3 * EACH, 1)
        assert np.isfinite(row["auroc"])
    assert more.row("radet-lite") == evaluation.row("radet-lite")
    gmac = {contender.name: contender.gmac for contender in more.contenders}
    assert gmac["linear probe"] < gmac["radet-lite"] < gmac["RIGID"] * 3


def test_models_come_before_peers(tmp_path: Path) -> None:
    """Plots hold eight lines: what somebody asked for must not be crowded out."""
    other = tmp_path / "other"
    shutil.copytree(resolve("radet-lite"), other)
    job = EvaluateJob(data="", models=("radet-lite", str(other)), peers=("radet-lite",), out=str(tmp_path / "out"))
    entrants = _entrants(job, tmp_path / "peers")
    assert [entrant.name for entrant in entrants][:3] == ["radet-lite", "radet-lite (2)", "linear probe"]
    lite = model_id(resolve("radet-lite"))
    assert [entrant.source for entrant in entrants][:2] == [f"radet-lite, {lite}", f"{other}, {lite}"]


def test_peers_on_two_detectors_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A recipe's name is that of every checkpoint it made."""
    other = tmp_path / "other"
    shutil.copytree(resolve("radet-lite"), other)
    job = EvaluateJob(data="", models=("radet-lite",), peers=("radet-lite", str(other)), out=str(tmp_path / "out"))
    entrants = _entrants(job, tmp_path / "peers")
    assert len(entrants) == 15
    for of_each in ({entrant.name for entrant in entrants}, {entrant.model for entrant in entrants}):
        assert len(of_each) == len(entrants)


def test_figures_are_of_the_stored_rows(found: tuple[Evaluation, EvaluateJob]) -> None:
    evaluation, job = found
    table = read_scores(f"{job.out}/scores/radet-lite").to_pylist()
    rows = {row["id"]: row for row in table if row["status"] == "ok"}
    for condition in ("clean", "jpeg:50"):
        score, label = [], []
        for location, generated in zip(evaluation.labelled.locations, evaluation.labelled.generated, strict=True):
            if (name := input_id(location, condition)) in rows:
                score.append(rows[name]["logit"])
                label.append(generated)
        row = evaluation.row("radet-lite", condition)
        assert row["auroc"] == pytest.approx(Ranking(score, label).figures()["auroc"][0])
    assert len(table) == (6 * EACH + 1) * 4
    group = evaluation.row("radet-lite", "clean", "pair group", "wukong")
    assert (group["real"], group["generated"], group["failed"]) == (EACH, EACH, 1)
    generator = evaluation.row("radet-lite", "clean", "generator", "wukong")
    assert (generator["real"], generator["generated"]) == (3 * EACH, EACH)


def test_tables_and_page(found: tuple[Evaluation, EvaluateJob], tree: Path) -> None:
    evaluation, job = found
    rows = list(csv.DictReader(io.StringIO((Path(job.out) / "tables" / "overall.csv").read_text())))
    assert [row["detector"] for row in rows] == [contender.name for contender in evaluation.contenders]
    assert float(rows[0]["auroc_low"]) <= float(rows[0]["auroc"]) <= float(rows[0]["auroc_high"])
    page = evaluation_page(evaluation, str(tree))
    assert page.count("<svg") >= 8
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "<script" not in page
    assert "broken.png" in page
    assert "data:image/jpeg;base64," in page


def test_stated_rates_are_looked_at_after_every_degradation(found: tuple[Evaluation, EvaluateJob], tree: Path) -> None:
    """A rate above what is stated, beyond chance, is in bold; and it is the row's own figure."""
    evaluation, _ = found
    first = evaluation.contenders[0]
    assert first.config.verdict is not None

    def table(found: Evaluation) -> str:
        page = evaluation_page(found, str(tree)).split("Are the stated rates kept then?")[1]
        return page.split("<table>")[1].split("</table>")[0]

    page = table(evaluation)
    for condition in evaluation.conditions:
        assert f"<th>{condition}</th>" in page
        assert f"{100 * evaluation.row(first.name, condition)['fpr']:.1f}" in page
    assert "<b>" not in page
    broken = [
        row | {"fpr": 0.9, "intervals": {**row.get("intervals", {}), "fpr": (0.8, 1.0)}} for row in evaluation.rows
    ]
    assert table(replace(evaluation, rows=broken)).count("<b>90.0</b>") >= len(evaluation.conditions)


@pytest.mark.browser
def test_the_page_in_a_browser(found: tuple[Evaluation, EvaluateJob], tree: Path, tmp_path: Path) -> None:
    """Nothing sticks out or overlaps, nothing is fetched, no serious violation; with a wide confusion matrix."""
    evaluation, _ = found
    families = [f"generator number {number}" for number in range(20)]
    sources = evaluation.labelled.sources
    named = [families[index % 20] for index in range(len(sources))]
    matrix = confusion(named, evaluation.labelled.generated, sources, families)
    first, *others = evaluation.contenders
    evaluation = replace(evaluation, contenders=[replace(first, confusion=matrix), *others])
    file = tmp_path / "report.html"
    file.write_text(evaluation_page(evaluation, str(tree)), encoding="utf-8")
    shots = Path(os.environ.get("RADET_SHOTS", tmp_path))
    with chromium() as browser:
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            wrong: list[str] = []
            page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
            page.on("request", lambda asked, wrong=wrong: wrong.append(asked.url))
            page.goto(file.as_uri())
            page.screenshot(path=shots / f"evaluation_{name}.png", full_page=True)
            assert [url for url in wrong if not url.startswith(("file:", "data:"))] == []
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
            boxes = page.evaluate(
                """[...document.querySelectorAll("main > *, .numbers > div, .plots > figure, .gallery > div")].map(
                    e => [e.tagName, e.parentElement.tagName + e.parentElement.className, e.getBoundingClientRect()]
                ).map(([tag, parent, b]) => [tag, parent, b.left, b.top, b.right, b.bottom])"""
            )
            assert len(boxes) > 20
            for number, (tag, parent, *one) in enumerate(boxes):
                assert one[0] >= 0, (tag, parent)
                assert one[2] <= width + 1, (tag, parent)
                for _, other_parent, *other in boxes[number + 1 :]:
                    if parent == other_parent:
                        assert not _overlap(one, other), (tag, parent, one, other)
            if name == "phone":  # a column beside wide ones gives way letter by letter
                heads = page.evaluate(
                    "[...document.querySelectorAll('tbody th')].map(e => [e.innerText, e.clientWidth])"
                )
                assert [text for text, across in heads if across < 120] == []
            assert violations(page) == []
            page.emulate_media(media="print")  # on paper nothing can be moved into view
            cut = page.evaluate("[...document.querySelectorAll('.wide')].map(e => getComputedStyle(e).overflowX)")
            assert set(cut) == {"visible"}
            page.close()


def _overlap(one: list[float], other: list[float]) -> bool:
    """More than a pixel of two boxes (left, top, right, bottom) lies on each other."""
    across, down = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return across > 1 and down > 1


def test_it_goes_on_where_it_ended_and_refuses_what_cannot_work(found: tuple[Evaluation, EvaluateJob]) -> None:
    evaluation, job = found
    again = evaluate(replace(job, peers=()), EvaluateWatcher())
    assert again.rows[0] == evaluation.rows[0]
    for wrong in (
        replace(job, models=()),
        replace(job, suites="fog:1"),
        replace(job, groups=f"{job.out}/tables/overall.csv"),
    ):
        with pytest.raises(ConfigError):
            evaluate(wrong, EvaluateWatcher())


def test_rates_are_kept_under_the_conditions_of_an_evaluation(
    found: tuple[Evaluation, EvaluateJob], tmp_path: Path
) -> None:
    """From its scores, without scoring again. Labels are such that the detector is right, but for two pictures."""
    evaluation, job = found
    scored = evaluation.contenders[0].scored
    order = np.argsort(scored["clean"].score)[: 6 * EACH]  # the broken one is nan, and last
    generated = np.arange(len(order)) >= 3 * EACH
    generated[[3 * EACH - 3, 3 * EACH + 2]] = True, False
    locations = [evaluation.labelled.locations[place] for place in order]
    lines = [f"{location},{int(label)}" for location, label in zip(locations, generated, strict=True)]
    (tmp_path / "ours.csv").write_bytes(os.fsencode("\n".join(["uri,label", *lines])))
    runs = Path(job.out, "scores", "radet-lite", "_runs")
    before = set(runs.glob("*.json"))
    calibrating = CalibrateJob(
        data=str(tmp_path / "ours.csv"),
        model="radet-lite",
        out=str(tmp_path / "held"),
        rates=(0.1, 0.3),
        suites="jpeg:50",
        evaluation=job.out,
    )
    config = calibrate(calibrating, Watcher())
    (run,) = set(runs.glob("*.json")) - before
    assert json.loads(run.read_text())["work"]["scored"] == 0
    assert config.calibration is not None
    p_before = scored["clean"].p
    assert p_before is not None
    error = expected_calibration_error(p_before[order], generated)
    assert config.calibration.ece_before == pytest.approx(error, abs=1e-6)
    assert config.calibration.ece_after < error
    real = order[~generated]
    p = {name: probability(scored[name].score, config.calibration)[real] for name in ("clean", "jpeg:50")}
    for threshold in config.thresholds:
        (degraded,) = threshold.degraded
        assert degraded.condition == "jpeg:50"
        assert (p["clean"] > threshold.value).mean() == pytest.approx(threshold.achieved_fpr)
        assert (p["jpeg:50"] > threshold.value).mean() == pytest.approx(degraded.fpr)
        assert max(threshold.achieved_fpr, degraded.fpr) <= threshold.target_fpr
    assert config.verdict is not None
    assert (config.verdict.target_fpr, config.verdict.generated_above) == (0.3, config.thresholds[1].value)
    card = (tmp_path / "held" / "README.md").read_text()
    assert "| jpeg:50 | " in card
    assert f"Verdict: `generated` above {config.verdict.generated_above:.3f}" in card.split("## Calibrated anew")[-1]
    assert DetectorConfig.read(tmp_path / "held") == config


def test_too_few_pictures_to_calibrate_on_are_refused_before_any_is_scored(
    photographs: list[Image.Image], tmp_path: Path
) -> None:
    data = write_tree(tmp_path / "few", photographs, {"gen": ("0_real", "1_fake")}, 19)
    job = CalibrateJob(data=str(data), model="radet-lite", out=str(tmp_path / "x"), address="127.0.0.1:1")  # no Ray
    with pytest.raises(ConfigError, match="has 19 real and 19 generated pictures: give 20 of each at least"):
        calibrate(job, Watcher())


def test_why_too_few_can_be_scored_is_told(photographs: list[Image.Image], tmp_path: Path) -> None:
    data = write_tree(tmp_path / "ours", photographs, {"gen": ("0_real", "1_fake")}, 20)
    (broken := data / "gen" / "0_real" / "3.png").write_bytes(b"no picture")
    job = CalibrateJob(data=str(data), model="radet-lite", out=str(tmp_path / "x"))
    told = f"can be scored .not clean!{broken}: no known image signature.: give 20 of each"
    with pytest.raises(ConfigError, match=told):
        calibrate(job, Watcher())


@pytest.mark.slow
def test_calibrating_anew_changes_probabilities_and_nothing_else(
    photographs: list[Image.Image], tmp_path: Path
) -> None:
    data = write_tree(tmp_path / "ours", photographs, {"gen": ("0_real", "1_fake")}, 22)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        calibrate(CalibrateJob(data=str(data), model="radet-lite", out=str(tmp_path / "x"), rates=(5.0,)), Watcher())
    job = CalibrateJob(data=str(data), model="radet-lite", out=str(tmp_path / "ours-lite"), rates=(0.1,))
    config = calibrate(job, Watcher())
    before, after = Detector.from_pretrained("radet-lite"), Detector.from_pretrained(tmp_path / "ours-lite")
    assert after.config == config == DetectorConfig.read(tmp_path / "ours-lite")
    paths = sorted(str(path) for path in data.rglob("*.png"))
    old, new = before.score(paths), after.score(paths)
    assert [score.logit for score in new] == [score.logit for score in old]
    assert [score.p_generated for score in new] != [score.p_generated for score in old]
    assert after.model_id != before.model_id
    real = [score.p_generated for path, score in zip(paths, new, strict=True) if "0_real" in path]
    (threshold,) = config.thresholds
    assert sum(p > threshold.value for p in real) / len(real) == pytest.approx(threshold.achieved_fpr)
    assert "Calibrated anew" in (tmp_path / "ours-lite" / "README.md").read_text()
