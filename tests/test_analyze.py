"""`radet analyze` as a user meets it: files, page, help, errors."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.analysis_page import page
from pipelines.analyze import choose
from pipelines.labelled import Labelled, list_reference
from pipelines.plots_analysis import Plot
from radet.errors import ConfigError

from .browser import SIZES, chromium, violations
from .test_cli import refused
from .training import write_tree


def test_help_teaches() -> None:
    text = CliRunner().invoke(app, ["analyze", "--help"]).output
    for word in ("--reference", "--limit", "index.html", "docs/analysis.md", "Examples"):
        assert word in text


def test_findings_tables_plots_and_page(tmp_path: Path, photographs: list[Image.Image]) -> None:
    """The bundled detector on a handful of small pictures; one of them is broken."""
    tree = write_tree(tmp_path / "data", photographs, 8)
    (tree / "source0" / "0_real" / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["analyze", str(tree), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document = json.loads((out / "analysis.json").read_text())
    assert (document["real"], document["generated"], document["listed"]) == (4, 4, 9)
    assert [Path(location).name for location in document["broken"]] == ["broken.png"]
    assert "too few pictures for a divergence" in done.output
    assert "broken.png" in done.output
    with (out / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(document["tables"]["layers"])
    assert float(rows[0]["auroc"]) == document["tables"]["layers"][0]["auroc"]
    html = (out / "index.html").read_text()
    plots = sorted(path.stem for path in out.glob("*.png"))
    assert plots == ["plot_controls", "plot_layers", "plot_layers_by_generator", "plot_sources", "plot_sweep"]
    for name in plots:
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width >= 600
            assert np.asarray(picture.convert("L")).std() > 5, "something is drawn"
        assert (out / f"{name}.svg").read_bytes().lstrip().startswith(b"<?xml")
    assert html.count("<img ") == len(plots)
    assert document["findings"][0].split(":")[0] in html


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Names are text, nothing is fetched, and on a phone plots are moved, not shrunk to what nobody can read."""
    hostile = '<img src=x onerror="window.wrong = 1">\'' + "long" * 40
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='800' height='300'><rect width='800' height='300'/></svg>"
    document = {"model": hostile, "model_id": "0", "findings": [hostile], "data": hostile, "real": 1, "generated": 1}
    document |= {"listed": 2, "reference_data": hostile, "reference": 1, "broken": [hostile]}
    (tmp_path / "index.html").write_text(page(document, {"one": Plot(hostile, hostile, b"", svg)}))
    with chromium() as browser:
        for width, height in SIZES.values():
            opened = browser.new_page(viewport={"width": width, "height": height})
            asked: list[str] = []
            opened.on("request", lambda request, asked=asked: asked.append(request.url))
            opened.goto((tmp_path / "index.html").as_uri())
            assert opened.evaluate("window.wrong") is None
            assert [url for url in asked[1:] if not url.startswith("data:")] == []
            assert opened.evaluate("document.scrollingElement.scrollWidth") <= width
            assert opened.locator(".plot img").evaluate("one => one.clientWidth") >= 600
            assert violations(opened) == []
            opened.close()


def test_pictures_are_chosen_evenly() -> None:
    sources = ["big"] * 90 + ["small"] * 4 + ["fake"] * 50
    generated = np.array([False] * 94 + [True] * 50)
    listed = Labelled([str(number) for number in range(144)], generated, sources, 0)
    chosen = choose(listed, 20)
    assert len(set(chosen)) == 20
    assert generated[chosen].sum() == 10
    assert [sources[position] for position in chosen].count("small") == 4
    assert chosen == choose(listed, 20)
    assert not (np.diff(generated[chosen].astype(int)) == 0).all(), "the classes are mixed"
    assert len(choose(listed, 1000)) == 144
    assert generated[choose(listed, 130)].sum() == 50, "what one class lacks the other fills"


def test_a_reference_needs_no_labels_and_leaves_generated_pictures_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "g/0_real/b.jpg", "g/1_fake/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [Path(location).name for location in list_reference(str(tmp_path))] == ["a.jpg", "b.jpg"]
    with pytest.raises(ConfigError, match="no picture for a reference"):
        list_reference(str(_empty(tmp_path)))


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_a_request_that_cannot_work_is_one_line(tmp_path: Path) -> None:
    assert "has no labels" in refused("analyze", str(_empty(tmp_path)), "--out", str(tmp_path / "o"))
    (web := tmp_path / "web.csv").write_text("uri,label\nhttp://a.test/a.jpg,real\nhttp://a.test/b.jpg,fake\n")
    told = "names 2 pictures on the web, the first http://a.test/a.jpg: an analysis reads files and S3 only"
    assert told in refused("analyze", str(web), "--out", str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()
