"""The whole pipeline, on real Ray, over every kind of source."""

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from ray._private.ray_constants import MAC_DEGRADED_PERF_MMAP_SIZE_LIMIT

import pipelines.s3
from benchmarks.tiny import write_checkpoint, write_parquet
from pipelines.cluster import _store_bytes
from pipelines.coordinator import Progress
from pipelines.items import is_image_name
from pipelines.plan import Plan
from pipelines.score import ScoreJob, Tally, Watcher, score
from pipelines.sink import read_scores
from radet import Detector
from radet.crop import CropPolicy

from .bad_inputs import write_bad_inputs
from .corpus import write_corpus
from .image_server import ImageServer
from .s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

EVIDENCE = ["sha256", "phash", "status", "width", "height", "format", "bytes", "logit", "drift_cosine", "drift_l2"]


def run(src: Path | str, out: Path | str, **options: Any) -> dict[str, Any]:
    return score(ScoreJob(src=str(src), out=str(out), **options), Watcher())


def by_id(out: Path | str, columns: list[str] = EVIDENCE) -> dict[str, tuple[Any, ...]]:
    rows = read_scores(str(out), columns=["id", *columns], verify=True).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: tuple(row[name] for name in columns) for row in rows}


def image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and is_image_name(str(path)))


@pytest.fixture(scope="module")
def scored_folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Any, ...]]]:
    """The pictures scored from their folder: evidence by file name below it."""
    out = tmp_path_factory.mktemp("folder") / "out"
    manifest = run(pictures, out)
    rows = {os.path.relpath(name, os.path.abspath(pictures)): row for name, row in by_id(out).items()}
    assert manifest["rows"] == len(image_files(pictures)) == len(rows)
    return pictures, rows


def test_the_pipeline_scores_as_the_detector_does_alone(
    scored_folder: tuple[Path, dict[str, tuple[Any, ...]]],
) -> None:
    folder, rows = scored_folder
    names = sorted(rows)
    alone = Detector.from_pretrained("radet-lite").score([folder / name for name in names])
    for name, one in zip(names, alone, strict=True):
        expected = tuple(getattr(one, field) for field in EVIDENCE)
        assert rows[name][:7] == expected[:7]
        assert rows[name][7:] == pytest.approx(expected[7:], abs=1e-5)


@pytest.mark.s3
@pytest.mark.parametrize(
    "kind",
    [
        "s3 prefix",
        pytest.param("parquet bytes", marks=pytest.mark.slow),
        pytest.param("tars", marks=pytest.mark.slow),
        pytest.param("parquet uris", marks=pytest.mark.slow),
        pytest.param("manifest of s3 uris", marks=pytest.mark.slow),
    ],
)
def test_every_source_gives_the_same_scores(
    kind: str, scored_folder: tuple[Path, dict[str, tuple[Any, ...]]], s3: S3Server, tmp_path: Path
) -> None:
    folder, expected = scored_folder
    files = image_files(folder)
    names = [str(path.relative_to(folder)) for path in files]
    out: Path | str = tmp_path / "out"
    options: dict[str, Any] = {"ids": "key"}
    if kind in ("s3 prefix", "manifest of s3 uris"):
        for path, name in zip(files, names, strict=True):
            pipelines.s3.put(s3.url(f"originals/{name}"), path.read_bytes())
        out = s3.url(f"scores/{tmp_path.name}-{kind.split(maxsplit=1)[0]}")
    if kind == "s3 prefix":
        src: Path | str = s3.url("originals")
        options = {}
    elif kind == "manifest of s3 uris":
        src = tmp_path / "list.jsonl"
        lines = [json.dumps({"uri": s3.url(f"originals/{name}"), "key": name}) for name in names]
        src.write_text("\n".join(lines))
    elif kind == "parquet bytes":
        src = tmp_path / "bytes.parquet"
        table = pa.table({"image": [path.read_bytes() for path in files], "key": names})
        pq.write_table(table, src, row_group_size=20)
    elif kind == "parquet uris":
        src = tmp_path / "uris.parquet"
        pq.write_table(pa.table({"uri": [str(path) for path in files], "key": names}), src)
    else:
        src = tmp_path / "tars"
        src.mkdir()
        for part in range(3):
            with tarfile.open(src / f"{part}.tar", "w") as archive:
                for number, (path, name) in enumerate(zip(files, names, strict=True)):
                    if number % 3 == part:
                        for member, data in (
                            (f"{number:04d}{path.suffix}", path.read_bytes()),
                            (f"{number:04d}.json", json.dumps({"key": name}).encode()),
                        ):
                            info = tarfile.TarInfo(member)
                            info.size = len(data)
                            archive.addfile(info, io.BytesIO(data))
    run(src, out, **options)
    rows = {name.removeprefix(s3.url("originals/")): row for name, row in by_id(out).items()}
    assert rows == expected


def test_bad_inputs_are_rows_with_the_documented_status(tmp_path: Path, photographs: list[Image.Image]) -> None:
    src = tmp_path / "src"
    src.mkdir()
    expected = write_bad_inputs(src)
    assert len(expected) >= 25
    (src / "folder.jpg").mkdir()
    (src / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(src / "pipe.jpg")
    with open(os.path.join(os.fsencode(src), b"latin\xe9.jpg"), "wb") as file:
        photographs[0].resize((80, 80)).save(file, "JPEG")
    expected |= {"folder.jpg": "not_an_image", "gone.jpg": "not_found", "pipe.jpg": "not_an_image"}
    expected |= {"latin\\xe9.jpg": "ok"}
    assert expected.pop("paper.pdf") == "unsupported_format"  # by its name no image: left alone, and counted
    manifest = run(src, tmp_path / "out")
    rows = by_id(tmp_path / "out", ["status", "error", "logit", "sha256"])
    assert {os.path.relpath(name, src): row[0] for name, row in rows.items()} == expected
    for status, error, logit, _ in rows.values():
        assert (logit is not None) == (status == "ok")
        assert (error is None) == (status == "ok")
    assert manifest["statuses"] == dict(Counter(expected.values()))
    assert manifest["inputs"]["ignored"] == {".pdf": 1}
    assert manifest["software"]["ray"] == ray.__version__


def test_duplicates_are_scored_once_and_every_row_has_the_score(tmp_path: Path, photographs: list[Image.Image]) -> None:
    src = tmp_path / "src"
    write_corpus(src, 5, photographs)
    original = src / "0" / "00000.jpg"
    for number in range(300):  # more than one shard, so that duplicates meet across tasks
        shutil.copy(original, src / f"copy {number}.jpg")
    broken = src / "broken.jpg"
    broken.write_bytes(original.read_bytes()[:200])
    shutil.copy(broken, src / "broken too.jpg")
    manifest = run(src, tmp_path / "out")
    assert manifest["work"]["scored"] == 5
    assert manifest["work"]["joined"] == 301
    assert manifest["statuses"] == {"ok": 305, "truncated": 2}
    rows = by_id(tmp_path / "out")
    assert len({row for name, row in rows.items() if "copy" in name or name == str(original)}) == 1


def test_a_second_night_scores_what_is_new_or_changed(tmp_path: Path, photographs: list[Image.Image]) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    write_corpus(src, 20, photographs)
    assert run(src, out)["work"]["scored"] == 20
    before = by_id(out)

    assert run(src, out)["rows"] == 0  # nothing new

    added, changed, touched, removed = (src / "0" / f"{n:05d}.jpg" for n in (99, 0, 7, 14))
    photographs[0].resize((70, 70)).save(added)
    photographs[1].resize((70, 70)).save(changed)
    os.utime(touched)
    removed.unlink()
    manifest = run(src, out)
    counts = {"new": 3, "again": 0, "unchanged": 17, "resumed": 0, "repeated": 0}
    assert manifest["inputs"] == counts | {"ignored": {}}
    assert (manifest["work"]["scored"], manifest["work"]["same"], manifest["rows"]) == (2, 1, 2)
    after = by_id(out)
    assert set(after) == set(before) | {str(added)}
    assert {name for name in before if before[name] != after[name]} == {str(changed)}
    assert read_scores(str(out), history=True).num_rows == 22

    assert run(src, out, rescore=True)["work"]["scored"] == 20
    assert by_id(out) == after

    other = tmp_path / "other"
    shutil.copytree(Path(__file__).parent.parent / "radet" / "weights" / "radet-lite", other)
    config = json.loads((other / "config.json").read_text())
    config["reference"]["log_drift_mean"] += 1.0
    (other / "config.json").write_text(json.dumps(config))
    assert run(src, out, model=str(other))["work"]["scored"] == 20, "another model scores everything"
    rows = read_scores(str(out)).to_pylist()
    assert len({(row["id"], row["model_id"]) for row in rows}) == len(rows) == 21 + 20


def test_failed_fetches_are_tried_again_only_if_they_may_succeed(tmp_path: Path, web: ImageServer) -> None:
    urls = [f"http://{web.host}/{name}" for name in ("ok.jpg", "flaky.jpg", "gone.jpg")] + ["http://10.0.0.1/a.jpg"]
    src, out = tmp_path / "urls.csv", tmp_path / "out"
    src.write_text("\n".join(["uri", *urls]) + "\n")

    def night() -> dict[str, tuple[Any, ...]]:
        run(src, out, allow_http=True)
        return by_id(out, ["status", "scored_at"])

    first = night()
    assert [first[url][0] for url in urls] == ["ok", "http_status", "not_found", "blocked_address"]
    web.fixed = True
    second = night()
    assert [second[url][0] for url in urls] == ["ok", "ok", "not_found", "blocked_address"]
    unchanged = [urls[0], urls[2]]
    assert [second[url] for url in unchanged] == [first[url] for url in unchanged]


@pytest.mark.slow
def test_a_limit_is_a_number_of_new_inputs(tmp_path: Path, photographs: list[Image.Image]) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    write_corpus(src, 150, photographs)
    assert run(src, out, limit=100)["rows"] == 100  # more than a batch
    assert run(src, out, limit=7)["rows"] == 7
    assert run(src, out)["rows"] == 43
    assert len(by_id(out)) == 150


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 16, 64])
@pytest.mark.parametrize("gpus", [0, 1, 4])
@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_every_plan_fits_the_cluster_and_keeps_the_stages_apart(cpus: int, gpus: int, workers: int | None) -> None:
    plan = Plan.of({"CPU": cpus, "GPU": gpus}, workers)
    assert plan.scorers * plan.scorer_cpus + plan.loader_cpus <= cpus + 1e-9, "a loader finds room beside the scorers"
    assert plan.scorers * plan.scorer_gpus <= gpus
    assert plan.scorer_cpus <= 0.5, "else no node may have room for one, however many there are"
    assert (plan.loader_cpus, 0) != (plan.scorer_cpus, plan.scorer_gpus), "Ray fuses stages that ask for the same"
    crop = CropPolicy(resize=56, size=56)
    batches = plan.store_bytes(crop) / (plan.block * 56 * 56 * 3)
    # Of the limit Ray sets an eighth aside for each of the other three stages, and counts two batches of a loader's
    # before they are there.
    assert 5 / 8 * batches >= 2 * plan.loaders + 2 * plan.scorers, "every loader may work while every scorer does"


@pytest.mark.parametrize("cores", [2, 8, 16])
@pytest.mark.parametrize("gpus", [0, 1])
def test_a_local_store_holds_what_the_plan_may(cores: int, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (64 << 30) // 4096}.__getitem__)
    assert Plan.of({"CPU": cores, "GPU": gpus}, None).store_bytes(CropPolicy()) <= _store_bytes()


def test_a_local_store_on_macos_is_one_that_ray_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (64 << 30) // 4096}.__getitem__)
    assert _store_bytes() == MAC_DEGRADED_PERF_MMAP_SIZE_LIMIT


@pytest.mark.slow
def test_loaders_are_a_bounded_number_of_batches_ahead(tmp_path: Path) -> None:
    """Small crops, of which the object store holds thousands, and loaders that are several times as fast as scorers."""
    write_parquet(tmp_path / "src", 16_000)
    write_checkpoint(tmp_path / "tiny")
    ahead: list[int] = []

    class Distance(Watcher):
        def moved(self, tally: Tally, progress: Progress) -> None:
            ahead.append(progress.counts.new - tally.rows)

    score(ScoreJob(src=str(tmp_path / "src"), out=str(tmp_path / "out"), model=str(tmp_path / "tiny")), Distance())
    plan = Plan.of({"CPU": 2}, None)
    crop = CropPolicy(resize=56, size=56)
    held = plan.store_bytes(crop) // (56 * 56 * 3)
    assert held < 4_000
    # Inputs are admitted a row group at a time, and each of two loaders has one at work.
    assert max(ahead) <= held + 2 * 1_000 + 2 * plan.block, "were it not for the limit, nearly all of them"


def test_tallies_add_up() -> None:
    tally = Tally()
    told = {"rows": 3, "scored": 1, "joined": 1, "same": 0, "fetch_s": 1.0, "decode_s": 1.0, "score_s": 1.0}
    tally.add(told | {"statuses": [("ok", 1), ("empty", 1)]})
    tally.add(told | {"statuses": [("ok", 1)]})
    assert (tally.rows, tally.statuses) == (6, {"ok": 2, "empty": 1})
