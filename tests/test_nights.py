"""Nights over one output whose inputs change, some of them killed: all of a run but Ray and the detector."""

import io
import itertools
import os
import random
import tarfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.coordinator import Coordinator, Request
from pipelines.index import Counts
from pipelines.ledger import Ledger
from pipelines.load import Loader, _fetcher
from pipelines.schema import STAGED, unpack
from pipelines.sink import read_scores
from pipelines.storage import open_folder
from radet.crop import CropPolicy

from .image_server import ImageServer

BLOCK = 3


def content(number: int) -> bytes:
    """A small picture of its own; below zero one that is broken."""
    if number < 0:
        return b"broken %d" % number
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (60, 60, 3), np.uint8)).save(out, "BMP")
    return out.getvalue()


def logit(sha: str) -> float:
    """What the detector of these tests finds in a content."""
    return float(int(sha[:6], 16))


class Nights:
    """Runs from one source to one output."""

    def __init__(self, src: Path, out: Path) -> None:
        self.src, self.out = src, out
        open_folder(str(out)).write("_lock", b'{"lease": "ours"}')

    def run(self, *, limit: int | None = None, killed_after: int | None = None) -> Counts:
        """One night, killed when so many blocks are staged; what it met."""
        folder = open_folder(str(self.out))
        run = Ledger(folder, model_id="", rescore=False).next_run()
        asked = {"src": str(self.src), "out": str(self.out), "model_id": "m", "allow_http": True, "limit": limit}
        coordinator = Coordinator(Request(run=run, block=BLOCK, lease="ours", **asked))  # type: ignore[arg-type]
        coordinator.start()
        policy = CropPolicy(resize=56, size=56)
        loader = Loader(desk=coordinator, policy=policy, allow_http=True, block=BLOCK, limited=limit is not None)
        ledger, staged = Ledger(folder, model_id="m", rescore=False), 0
        for first in itertools.count():
            shards = coordinator.shards(first, 1)
            for number, payload in shards:
                for batch in loader.load(number, payload):
                    if staged == killed_after:
                        return coordinator.progress().counts
                    ledger.stage(run, self._scored(unpack(batch)))
                    staged += 1
            if not shards:
                break
        if killed_after is None:
            coordinator.commit({})
        return coordinator.progress().counts

    def rows(self) -> dict[str, tuple[str, str, float | None]]:
        """By id: status, sha256 and logit of the latest row, which is also the one that was scored last."""
        columns = ["id", "status", "sha256", "logit"]
        table = read_scores(str(self.out), columns=columns, verify=True)
        assert pc.count_distinct(table["id"]).as_py() == table.num_rows
        history = read_scores(str(self.out), history=True)
        by_time = history.take(pc.sort_indices(history, [("scored_at", "ascending")])).select(columns)
        latest = {row["id"]: tuple(row.values())[1:] for row in table.to_pylist()}
        assert latest == {row["id"]: tuple(row.values())[1:] for row in by_time.to_pylist()}
        return latest  # type: ignore[return-value]

    @staticmethod
    def _scored(loaded: pa.Table) -> pa.Table:
        rows = [
            row | {"model_id": "m", "scored_at": datetime.now(UTC), "logit": row["crop"] and logit(row["sha256"])}
            for row in loaded.to_pylist()
        ]
        return pa.Table.from_pylist(rows, schema=STAGED)


class Corpus:
    """Contents by name, written as a source of some kind. A file that is written anew has another time."""

    def __init__(self, kind: str, src: Path) -> None:
        self.kind, self.src = kind, src
        self.contents: dict[str, int] = {}
        self._clock = itertools.count(1)
        src.mkdir()

    def write(self) -> None:
        if self.kind == "files":
            for path in self.src.iterdir():
                path.unlink()
            for name, number in self.contents.items():
                (self.src / name).write_bytes(content(number))
        elif self.kind == "parquet":
            pictures = pa.array([content(number) for number in self.contents.values()], pa.binary())
            pq.write_table(pa.table({"image": pictures}), self.src / "a.parquet", row_group_size=7)
        else:
            with tarfile.open(self.src / "a.tar", "w") as archive:
                for name, number in self.contents.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data := content(number))
                    archive.addfile(member, io.BytesIO(data))
        for path in self.src.iterdir():
            os.utime(path, (time := next(self._clock), time))

    def expected(self) -> dict[str, tuple[str, str, float | None]]:
        """As Nights.rows, of what is there now."""
        found: dict[str, tuple[str, str, float | None]] = {}
        for row, (name, number) in enumerate(self.contents.items()):
            sha, broken = sha256(content(number)).hexdigest(), number < 0
            place = {"files": f"/{name}", "parquet": f"/a.parquet#{row}", "tar": f"/a.tar#{name}"}[self.kind]
            found[f"{self.src}{place}"] = ("not_an_image" if broken else "ok", sha, None if broken else logit(sha))
        return found

    def change(self, rng: random.Random) -> None:
        """Add, copy, rename, remove, replace or break one."""
        new, fresh = f"{rng.getrandbits(64)}.png", rng.getrandbits(32)
        name = rng.choice(list(self.contents))
        match rng.randrange(6):
            case 0:
                self.contents[new] = fresh
            case 1:
                self.contents[new] = self.contents[name]
            case 2:
                self.contents[new] = self.contents.pop(name)
            case 3 if len(self.contents) > 1:
                del self.contents[name]
            case 4:
                self.contents[name] = -fresh
            case _:
                self.contents[name] = fresh


@pytest.fixture(params=["files", "parquet", "tar"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Corpus:
    made = Corpus(request.param, tmp_path / "in")
    made.contents = {f"{number}.png": number for number in range(12)}
    made.write()
    return made


@pytest.mark.parametrize("seed", range(3))
def test_however_nights_end_the_rows_are_those_of_what_is_there(corpus: Corpus, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    nights = Nights(corpus.src, tmp_path / "out")
    for _ in range(6):
        nights.run(killed_after=rng.choice([None, 0, 1, 3]))
        for _ in range(rng.randrange(4)):
            corpus.change(rng)
        corpus.write()
    nights.run()
    assert nights.rows().items() >= corpus.expected().items()
    assert nights.run().new == 0


def test_what_a_killed_night_has_done_of_an_archive_is_done_again_where_that_was_replaced(
    corpus: Corpus, tmp_path: Path
) -> None:
    nights = Nights(corpus.src, tmp_path / "out")
    nights.run(killed_after=2)
    assert nights.run(killed_after=3).resumed == 2 * BLOCK
    corpus.contents = {name: number + 100 for name, number in corpus.contents.items()}
    corpus.write()
    assert nights.run().resumed == 0
    assert nights.rows() == corpus.expected()


def test_what_has_not_changed_is_not_opened_again(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(corpus.src, tmp_path / "out")
    nights.run(killed_after=2)
    nights.run()
    monkeypatch.delattr(Loader, "load")
    assert nights.run()[:2] == (0, len(corpus.contents))


@pytest.mark.parametrize("corpus", ["tar"], indirect=True)
def test_an_archive_that_was_gone_for_a_night_is_read_when_it_is_back_as_it_was(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(corpus.src, tmp_path / "out")
    with monkeypatch.context() as away:
        away.setattr("pipelines.tars._open", lambda _: os.stat(tmp_path / "gone"))
        nights.run()
    assert [status for status, _, _ in nights.rows().values()] == ["not_found"]
    nights.run()
    assert nights.rows().items() >= corpus.expected().items()


def test_of_a_list_only_files_that_have_changed_are_read_again(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(content(number))
    (tmp_path / "list.csv").write_text("uri\n0.png\n1.png\n2.png\n")
    nights = Nights(tmp_path / "list.csv", tmp_path / "out")
    assert nights.run()[:2] == (3, 0)
    (tmp_path / "1.png").write_bytes(content(9))
    assert nights.run()[:2] == (1, 2)


def test_nights_with_a_limit_get_through_a_corpus(corpus: Corpus, tmp_path: Path) -> None:
    nights = Nights(corpus.src, tmp_path / "out")
    assert [nights.run(limit=5).new for _ in range(4)] == [5, 5, 2, 0]
    assert nights.rows() == corpus.expected()


def test_nights_with_a_limit_get_through_a_list_of_pages(tmp_path: Path, web: ImageServer) -> None:
    """Without a limit each page is read again, for nothing else tells whether it has changed."""
    _fetcher.cache_clear()  # made before the server was to be trusted
    (tmp_path / "urls.csv").write_text("uri\n" + "".join(f"http://{web.host}/ok.jpg?{n}\n" for n in range(8)))
    nights = Nights(tmp_path / "urls.csv", tmp_path / "out")
    assert [nights.run(limit=5).new for _ in range(3)] == [5, 3, 0]
    assert nights.run().new == 8
    assert read_scores(str(tmp_path / "out"), history=True).num_rows == 8


def test_pages_that_cannot_be_had_leave_half_of_a_limit_to_others(tmp_path: Path, web: ImageServer) -> None:
    _fetcher.cache_clear()
    dead = [f"http://localhost:1/{n}.jpg" for n in range(4)]  # a port that may not be read, which may pass
    (tmp_path / "urls.csv").write_text("\n".join(["uri", *dead, *(f"http://{web.host}/ok.jpg?{n}" for n in range(5))]))
    nights = Nights(tmp_path / "urls.csv", tmp_path / "out")
    counts = [nights.run(limit=4) for _ in range(4)]
    assert [(found.new, found.again) for found in counts] == [(4, 0), (4, 2), (4, 2), (3, 2)]
    assert sorted(status for status, _, _ in nights.rows().values()) == ["blocked_address"] * 4 + ["ok"] * 5


def test_what_a_killed_night_could_not_have_is_tried_again_by_the_one_that_resumes_it(
    tmp_path: Path, web: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fetcher.cache_clear()
    monkeypatch.setattr(web, "fixed", False)
    pages = [f"http://{web.host}/{name}" for name in ("flaky.jpg", *(f"ok.jpg?{n}" for n in range(8)))]
    (tmp_path / "urls.csv").write_text("\n".join(["uri", *pages]) + "\n")
    nights = Nights(tmp_path / "urls.csv", tmp_path / "out")
    nights.run(killed_after=2)
    web.fixed = True
    counts = nights.run()
    assert (counts.new, counts.resumed) == (4, 5)
    rows = nights.rows()
    assert [rows[page][0] for page in pages] == ["ok"] * 9


@pytest.mark.parametrize("killed_after", [None, 1])
def test_copies_of_a_picture_for_which_there_was_no_room_are_tried_again(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int | None
) -> None:
    corpus.contents = dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), 7)
    corpus.write()
    nights = Nights(corpus.src, tmp_path / "out")

    def no_room(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as crowded:
        crowded.setattr("pipelines.load.see", no_room)
        nights.run(killed_after=killed_after)
    if killed_after is None:
        assert {status for status, _, _ in nights.rows().values()} == {"unreachable"}
    assert nights.run().new == 4
    assert nights.rows() == corpus.expected()
