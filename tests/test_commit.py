"""The commit, interrupted before and after every single storage operation, on local disk and on S3."""

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.commit import Commit, IncompleteError
from pipelines.index import Index, digest
from pipelines.ledger import Ledger, new_run_id
from pipelines.schema import JOIN, SAME, SCORED, STAGED
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from radet.errors import ConfigError

from .s3_server import S3Server

V = digest("v")
LEASE = "ours"


def sha(content: str) -> str:
    return (content * 64)[:64]


def row(name: str, content: str, kind: int = SCORED, **more: Any) -> dict[str, Any]:
    scored = kind == SCORED
    return {
        "id": name,
        "uri": name,
        "sha256": sha(content),
        "status": "ok",
        "model_id": "m",
        "scored_at": datetime(2026, 1, 1, tzinfo=UTC),
        "logit": float(int(content, 16)) if scored else None,
        "_key": digest(name, name),
        "_version": V,
        "_kind": kind,
        "_retry": False,
        **more,
    }


def block(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=STAGED)


def open_run(url: str, scratch: Path, names: list[str], model: str = "m") -> tuple[Ledger, Index, str]:
    """A run that has listed `names` and is about to commit."""
    run = new_run_id()
    ledger = Ledger(open_folder(url), model_id=model, rescore=False)
    ledger.folder.write("_lock", json.dumps({"lease": LEASE}).encode())
    ledger.clean()
    index = Index(scratch / run)
    ledger.fill(index)
    index.admit(0, [(digest(name, name), V) for name in names])
    return ledger, index, run


def commit(ledger: Ledger, index: Index, run: str) -> dict[str, Any]:
    return Commit(ledger, index, run, LEASE).write({})


def rows_of(url: str) -> dict[str, float]:
    table = read_scores(url, verify=True)
    assert len(set(table["id"].to_pylist())) == table.num_rows
    return dict(zip(table["id"].to_pylist(), table["logit"].to_pylist(), strict=True))


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Fresh output places."""
    if request.param == "local":
        return (str(tmp_path / f"out{n}") for n in itertools.count())
    server: S3Server = request.getfixturevalue("s3")
    return (server.url(f"commit/{new_run_id()}-{n}") for n in itertools.count())


class Crash(BaseException):
    """The process dies here."""


def crash_at(folder: Any, step: int, when: str) -> None:
    """Make a folder's `step`-th change of the storage the last, before or after it takes effect."""
    steps = itertools.count()

    def wrap(operation: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            mine = next(steps)
            if mine == step and when == "before":
                raise Crash
            if mine <= step:
                operation(*args)
            if mine >= step:
                raise Crash

        return run

    for name in ("write", "upload", "delete"):
        setattr(folder, name, wrap(getattr(folder, name)))


STAGED_ROWS = [row("a", "1"), row("b", "2"), row("c", "1", JOIN), row("d", "3")]
EXPECTED = {"a": 1.0, "b": 2.0, "c": 1.0, "d": 3.0}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_dies_at_any_step_is_finished_by_the_next_run(
    urls: Iterator[str], tmp_path: Path, when: str
) -> None:
    for step in itertools.count():
        url = next(urls)
        ledger, index, run = open_run(url, tmp_path, list("abcd"))
        ledger.stage(run, block(*STAGED_ROWS[:2]))
        ledger.stage(run, block(*STAGED_ROWS[2:]))
        crash_at(ledger.folder, step, when)
        try:
            commit(ledger, index, run)
            died = False
        except Crash:
            died = True
        ledger, index, run = open_run(url, tmp_path, list("abcd"))
        assert index.counts().new == 0, "committed or staged work would be done again"
        commit(ledger, index, run)
        assert rows_of(url) == EXPECTED
        assert read_scores(url, history=True).num_rows == len(EXPECTED), "none is committed twice"
        listed = {file["name"] for one in ledger.manifests() for file in (*one["parts"], one["index"])}
        found = {item.name for item in ledger.folder.list("")}
        manifests = {name for name in found if name.startswith("_runs/") and name.endswith(".json")}
        assert found == listed | manifests | {"_lock"}, "nothing staged or orphaned is left"
        if not died:
            break
    assert step == 4, "part, index, manifest, staged blocks: four changes"


def test_parts_without_a_manifest_are_not_read_and_are_removed(urls: Iterator[str], tmp_path: Path) -> None:
    url = next(urls)
    ledger, index, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "1")))
    commit(ledger, index, run)
    ledger.folder.write("parts/20200101T000000000000Z-dead00-00000.parquet", b"half a part")
    assert rows_of(url) == {"a": 1.0}
    assert ledger.clean() == 1
    assert ledger.clean() == 0


def test_an_input_staged_twice_is_one_row_and_the_later_run_wins(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, _, first = open_run(url, tmp_path, ["a", "b"])
    ledger.stage(first, block(row("a", "1"), row("b", "2")).drop_columns(["generator"]))  # by an earlier release
    ledger, index, second = open_run(url, tmp_path, [])
    changed = [(digest("a", "a"), digest("changed"))]
    assert index.admit(0, changed) == [True]
    ledger.stage(second, block(*[row("a", "5", _version=digest("changed"))] * 2))
    assert open_run(url, tmp_path, [])[1].admit(0, changed) == [False]
    commit(ledger, index, second)
    assert rows_of(url) == {"a": 5.0, "b": 2.0}


def test_a_join_gives_way_to_the_row_that_was_scored_for_the_same_input(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, index, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "1"), row("a", "2", JOIN)))  # a changed; what it joins was lost with its owner
    commit(ledger, index, run)
    assert rows_of(url) == {"a": 1.0}


def test_a_manifest_counts_and_names_the_pictures_most_likely_generated_each_once(tmp_path: Path) -> None:
    p = {"a": 0.5, "b": 0.9, "c": 0.25, "d": 0.9, "e": None, "f": 0.125, "g": 0.0, "h": 0.75}
    ledger, index, run = open_run(str(tmp_path / "out"), tmp_path, [*p, "copy of b"])
    rows = [row(name, f"{n:x}", p_generated=p[name], verdict="real") for n, name in enumerate(p)]
    rows[4]["verdict"] = None
    rows[1]["digital_source_type"] = "trainedAlgorithmicMedia"
    ledger.stage(run, block(*rows[:4], row("copy of b", "1", JOIN)))
    ledger.stage(run, block(*rows[4:]))
    manifest = commit(ledger, index, run)
    found = [(one["uri"], round(one["p_generated"], 3)) for one in manifest["highest"]]
    assert found == [("b", 0.9), ("d", 0.9), ("h", 0.75), ("a", 0.5), ("c", 0.25)]
    assert manifest["verdicts"] == {"real": 8}
    assert manifest["digital_source_types"] == {"trainedAlgorithmicMedia": 2}


def test_a_long_run_has_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.commit.PART_ROWS", 2)
    url = str(tmp_path / "out")
    ledger, index, run = open_run(url, tmp_path, list("abcde"))
    for names in ("ab", "cde"):
        ledger.stage(run, block(*(row(name, "1") for name in names)))
    manifest = commit(ledger, index, run)
    assert sorted(part["rows"] for part in manifest["parts"]) == [2, 3]
    assert rows_of(url) == dict.fromkeys("abcde", 1.0)


def test_a_duplicate_keeps_its_score_when_its_original_changes_before_the_run_is_resumed(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, _, first = open_run(url, tmp_path, ["a", "b"])
    ledger.stage(first, block(row("a", "1"), row("b", "1", JOIN)))
    ledger, index, second = open_run(url, tmp_path, [])
    index.admit(0, [(digest("a", "a"), digest("changed"))])
    ledger.stage(second, block(row("a", "5")))
    commit(ledger, index, second)
    assert rows_of(url) == {"a": 5.0, "b": 1.0}


@pytest.mark.parametrize("staged", ["a", "abc"])
def test_nothing_is_committed_while_inputs_and_rows_do_not_add_up(tmp_path: Path, staged: str) -> None:
    url = str(tmp_path / "out")
    ledger, index, run = open_run(url, tmp_path, ["a", "b"])
    ledger.stage(run, block(*(row(name, "1") for name in staged)))
    with pytest.raises(IncompleteError, match=f"2 inputs but {len(staged)} rows"):
        commit(ledger, index, run)
    with pytest.raises(ConfigError, match="no committed run"):
        read_scores(url)
    assert len(ledger.staged()) == 1


def test_duplicates_of_earlier_nights_take_their_score_from_the_last_one_of_this_model(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    no_room = row("a", "7", status="unreachable", logit=None, _retry=True)
    for model, scored in (("m", no_room), ("m", row("a", "7")), ("n", row("a", "7", model_id="n", logit=0.5))):
        ledger, index, run = open_run(url, tmp_path, ["a"], model)
        ledger.stage(run, block(scored))
        commit(ledger, index, run)
    ledger, index, run = open_run(url, tmp_path, ["a", "z"])
    assert index.counts().new == 1
    ledger.stage(run, block(row("z", "7", JOIN)))
    assert commit(ledger, index, run)["statuses"] == {"ok": 1}
    assert read_scores(url, run=run)["logit"].to_pylist() == [7.0]


@pytest.mark.parametrize("kind", ["parts", "index"])
def test_a_file_of_an_earlier_night_that_somebody_deleted_is_named_and_can_be_done_without(
    tmp_path: Path, kind: str
) -> None:
    url = str(tmp_path / "out")

    def night(*rows: dict[str, Any]) -> dict[str, Any]:
        ledger, index, run = open_run(url, tmp_path, [row["id"] for row in rows])
        ledger.stage(run, block(*rows))
        return commit(ledger, index, run)

    first = night(row("a", "7"))
    gone = tmp_path / "out" / (first["parts"][0] if kind == "parts" else first["index"])["name"]
    gone.unlink()
    told = rf"{gone.name} is gone, which _runs/{first['run']}\.json lists: .* delete _runs/{first['run']}\.json"
    with pytest.raises(ConfigError, match=told):
        night(row("z", "7", JOIN))
    (tmp_path / "out" / "_runs" / f"{first['run']}.json").unlink()
    night(row("a", "7"))
    assert rows_of(url) == {"a": 7.0}


def test_an_input_that_turned_out_the_same_gives_no_row_and_is_settled(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, index, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "7")))
    commit(ledger, index, run)
    ledger, index, run = open_run(url, tmp_path, [])
    touched = digest("touched")
    assert index.admit(0, [(digest("a", "a"), touched)]) == [True]
    ledger.stage(run, block(row("a", "7", SAME, _version=touched)))
    manifest = commit(ledger, index, run)
    assert (manifest["rows"], manifest["parts"]) == (0, [])
    assert read_scores(url, history=True).num_rows == 1
    _, index, _ = open_run(url, tmp_path, [])
    assert index.admit(0, [(digest("a", "a"), touched)]) == [False]


def test_a_changed_input_has_its_latest_row_and_a_history(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    for content, version in (("1", "v1"), ("2", "v2")):
        ledger, index, run = open_run(url, tmp_path, [])
        index.admit(0, [(digest("a", "a"), digest(version))])
        ledger.stage(run, block(row("a", content, _version=digest(version))))
        commit(ledger, index, run)
    assert rows_of(url) == {"a": 2.0}
    assert read_scores(url, history=True)["logit"].to_pylist() == [1.0, 2.0]


def test_staged_rows_of_another_model_are_neither_used_nor_lost(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, _, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "1")))
    other = Ledger(open_folder(url), model_id="n", rescore=False)
    other.clean()
    assert other.staged() == []
    assert len(ledger.staged()) == 1


def test_what_others_keep_in_the_folder_stays(urls: Iterator[str], tmp_path: Path) -> None:
    url = next(urls)
    folder = open_folder(url)
    names = "parts/wheel.jpg parts/sub/notes.txt _runs/plan.json _staging/m/draft.parquet parts/.tmp-mine"
    theirs = set(names.split())
    for name in theirs:
        folder.write(name, b"{")
    ledger, index, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "1")))
    commit(ledger, index, run)
    for place in ("parts", "_staging/m"):
        folder.write(f"{place}/.tmp-{'0' * 32}", b"left by a process that died")
    assert open_run(url, tmp_path, [])[1].counts().new == 0
    assert {item.name for item in folder.list("")} > theirs
    assert {item.name.partition("/")[0] for item in folder.list("")} == {"parts", "_runs", "_staging", "_lock"}
    assert rows_of(url) == {"a": 1.0}
    assert not [item.name for item in folder.list("") if "0000" in item.name and ".tmp" in item.name]


def test_a_duplicate_whose_original_was_lost_is_done_again_unless_it_is_gone(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, index, first = open_run(url, tmp_path, ["b"])
    ledger.stage(first, block(row("b", "1", JOIN)))  # and what it joins is never staged
    with pytest.raises(IncompleteError, match="1 duplicates without a scored original"):
        commit(ledger, index, first)
    assert open_run(url, tmp_path, ["b"])[1].counts().new == 1
    ledger, index, second = open_run(url, tmp_path, ["c"])
    ledger.stage(second, block(row("c", "2")))
    commit(ledger, index, second)
    assert rows_of(url) == {"c": 2.0}
    assert ledger.staged() == []


def test_what_a_forced_run_has_committed_is_not_undone_by_an_older_run_that_was_killed(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    ledger, _, killed = open_run(url, tmp_path, ["a", "b"])
    ledger.stage(killed, block(row("a", "1", status="timeout", logit=None, _retry=True), row("b", "2")))
    forced, run = Ledger(open_folder(url), model_id="m", rescore=True), new_run_id()
    index = Index(tmp_path / run)
    forced.fill(index)
    assert index.admit(0, [(digest("a", "a"), V)]) == [True]
    forced.stage(run, block(row("a", "5")))
    commit(forced, index, run)
    ledger.stage(new_run_id(), block(row("c", "3")))  # and another one is killed after it
    ledger, index, later = open_run(url, tmp_path, ["a", "b", "c"])
    assert index.counts()[:3] == (0, 1, 2)
    assert commit(ledger, index, later)["rows"] == 2
    assert rows_of(url) == {"a": 5.0, "b": 2.0, "c": 3.0}


def test_a_forced_run_does_not_take_up_what_a_later_run_has_done(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    forced, killed = Ledger(open_folder(url), model_id="m", rescore=True), new_run_id()
    forced.stage(killed, block(row("a", "1", status="timeout", logit=None, _retry=True)))
    ledger, index, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "5")))
    commit(ledger, index, run)
    index = Index(tmp_path / "forced")
    forced.fill(index)
    assert index.admit(0, [(digest("a", "a"), V)]) == [True]


def test_a_run_whose_output_another_has_taken_over_does_not_commit(urls: Iterator[str], tmp_path: Path) -> None:
    url = next(urls)
    ledger, index, run = open_run(url, tmp_path, ["a"])
    ledger.stage(run, block(row("a", "1")))
    ledger.folder.write("_lock", json.dumps({"lease": "theirs"}).encode())
    with pytest.raises(ConfigError, match="another run has taken over"):
        commit(ledger, index, run)
    with pytest.raises(ConfigError, match="no committed run"):
        read_scores(url)
    assert len(ledger.staged()) == 1


def test_a_run_sorts_behind_those_before_it_whatever_the_clock_says(tmp_path: Path) -> None:
    url, ahead = str(tmp_path / "out"), "29990101T000000999999Z-abcdef"
    ledger = Ledger(open_folder(url), model_id="m", rescore=False)
    assert ledger.next_run() < ahead
    ledger.folder.write("_lock", json.dumps({"lease": LEASE}).encode())
    ledger.stage(ahead, block(row("a", "1")))
    assert ledger.next_run().startswith("29990101T000001000000Z-")
    index = Index(tmp_path / "i")
    ledger.fill(index)
    commit(ledger, index, ahead)
    assert ledger.next_run().startswith("29990101T000001000000Z-")


def test_a_row_that_takes_its_score_from_a_duplicate_has_its_own_time(tmp_path: Path) -> None:
    url, now = str(tmp_path / "out"), datetime(2026, 1, 2, tzinfo=UTC)
    ledger, index, run = open_run(url, tmp_path, ["a", "b"])
    ledger.stage(run, block(row("a", "1"), row("b", "1", JOIN, scored_at=now)))
    commit(ledger, index, run)
    table = read_scores(url)
    assert dict(zip(table["id"].to_pylist(), table["scored_at"].to_pylist(), strict=True))["b"] == now


def test_a_file_is_read_from_disk_wherever_it_is_kept(urls: Iterator[str]) -> None:
    folder = open_folder(next(urls))
    folder.write("parts/a.parquet", b"rows")
    with folder.on_disk("parts/a.parquet") as path:
        assert path.read_bytes() == b"rows"
    assert folder.read("parts/a.parquet") == b"rows"
    for use in (folder.read, lambda name: folder.on_disk(name).__enter__()):
        with pytest.raises(FileNotFoundError, match=r"b\.parquet"):
            use("parts/b.parquet")
