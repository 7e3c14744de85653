"""Members of tars: links, ids that samples share, and how many are in memory together."""

import errno
import gc
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipelines import tars
from pipelines.items import BATCH_BYTES, Item
from radet.errors import FetchError, ImageError

from .test_sources import items, write_tar


def batches(file: Path, rows: int, ids: str | None = None) -> list[list[Item]]:
    body: dict[str, Any] = {"file": str(file), "uri_of_file": str(file), "version": "v", "ids": ids}
    return list(tars.read_items(body, rows))


def test_links_are_rows_that_tell_how_to_pack_them(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("a.jpg")
    (tmp_path / "d.txt").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg", "d.txt"):
            archive.add(tmp_path / name, name)
    first, *links = items(tmp_path / "s.tar")
    assert first.data == b"1"
    assert [link.entry.uri for link in links] == [f"{tmp_path}/s.tar#b.jpg", f"{tmp_path}/s.tar#c.jpg"]
    for link in links:
        assert isinstance(link.error, FetchError)
        assert (link.error.code, link.error.transient, link.rest) == ("not_found", False, False)
        assert "a link to a.jpg" in link.error.message
        assert "--dereference --hard-dereference" in link.error.message


def test_a_json_that_is_a_link_costs_the_id_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "a.json").symlink_to("b.json")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("a.jpg", "a.json"):
            archive.add(tmp_path / name, name)
    assert [item.entry.id for item in items(tmp_path / "s.tar", ids="post")] == [f"{tmp_path}/s.tar#a.jpg"]


@pytest.mark.parametrize(
    ("field", "name"),
    [("0", "0"), ("false", "False"), ("null", None), ('""', None), ('"x"', "x")],
)
def test_ids_of_samples(tmp_path: Path, field: str, name: str | None) -> None:
    write_tar(tmp_path / "s.tar", {"a.jpg": b"1", "a.json": f'{{"key": {field}}}'.encode(), "b.jpg": b"2"})
    found = items(tmp_path / "s.tar", ids="key")
    uri = f"{tmp_path}/s.tar"
    assert [item.entry.id for item in found] == [name or f"{uri}#a.jpg", f"{uri}#b.jpg"]


def test_a_batch_has_fewer_members_where_they_are_large(tmp_path: Path) -> None:
    size = BATCH_BYTES // 4
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for number in range(10):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    assert [len(batch) for batch in batches(tmp_path / "s.tar", 64)] == [4, 4, 2]
    assert [len(batch) for batch in batches(tmp_path / "s.tar", 3)] == [3, 3, 3, 1]


def test_members_do_not_wait_for_others_of_their_name_unless_they_share_ids(tmp_path: Path) -> None:
    """Frames of a film, say, whose names differ behind the first dot only: together they need not fit into memory."""
    write_tar(tmp_path / "s.tar", {f"film.{number:04d}.jpg": b"x" * 1000 for number in range(9)})
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[: 5 * 1536 + 700])
    (found,) = batches(tmp_path / "s.tar", 64)
    assert [item.error.code if item.error else "ok" for item in found] == ["ok"] * 5 + ["truncated"]


@pytest.mark.parametrize("missing", [1, 400, 512, 600])  # within a header, at its start, within what fills the blocks
def test_an_archive_that_ends_between_two_members_says_so(tmp_path: Path, missing: int) -> None:
    write_tar(tmp_path / "s.tar", {f"{n}.jpg": b"x" * 4000 for n in range(5)})
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[: 3 * 4608 + 512 - missing])
    found = items(tmp_path)
    assert [item.error.code if item.error else "ok" for item in found] == ["ok"] * 3 + ["truncated"]
    assert not any(item.rest for item in found), "tomorrow it says the same, and is not read again"


@pytest.mark.parametrize("told", [b"[1]", b"{broken", b"[" * 100_000, b"\xff", b"null"])
def test_a_json_that_says_nothing_of_its_sample_costs_the_id_alone(tmp_path: Path, told: bytes) -> None:
    write_tar(tmp_path / "s.tar", {"a.jpg": b"x", "a.json": told, "b.jpg": b"y", "b.json": b'{"post": 7}'})
    assert [(item.entry.id, item.data) for item in items(tmp_path, ids="post")] == [
        (f"{tmp_path}/s.tar#a.jpg", b"x"),
        ("7", b"y"),
    ]


def test_a_member_over_the_cap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_BYTES", 1000)
    write_tar(tmp_path / "s.tar", {"a.jpg": b"x" * 1001, "b.jpg": b"x" * 1000})
    large, right = items(tmp_path)
    assert isinstance(large.error, FetchError)
    assert (large.data, large.error.code) == (None, "too_large_bytes")
    assert right.data == b"x" * 1000


def test_an_archive_that_cannot_be_had_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(location: str) -> None:
        raise ConnectionResetError(errno.ECONNRESET, location)

    write_tar(tmp_path / "s.tar", {"a.jpg": b"x"})
    monkeypatch.setattr(tars, "_open", lost)
    (found,) = items(tmp_path)
    assert isinstance(found.error, FetchError)
    assert (found.error.code, found.error.transient, found.rest) == ("unreachable", True, True)


def test_a_header_that_is_damaged_is_not_the_end(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {f"{n}.jpg": b"x" * 4000 for n in range(5)})
    data = bytearray((tmp_path / "s.tar").read_bytes())
    data[3 * 4608] ^= 0xFF
    (tmp_path / "s.tar").write_bytes(data)
    assert [item.error.code if item.error else "ok" for item in items(tmp_path)] == ["ok"] * 3 + ["truncated"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "size", [b"\x80" + b"\0" * 3 + b"\xff" * 8, b"\xff" * 12, b"77777777777\0", b"\x80" + b"\xff" * 11]
)
@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"S"])
@pytest.mark.parametrize("name", ["2.jpg", "2.txt"])
def test_a_size_that_cannot_be_ends_an_archive(tmp_path: Path, size: bytes, kind: bytes, name: str) -> None:
    write_tar(tmp_path / "s.tar", {"0.jpg": b"x" * 500, "1.jpg": b"x" * 500, name: b"x" * 500, "3.jpg": b"x" * 500})
    data = bytearray((tmp_path / "s.tar").read_bytes())
    header = data[2048:2560]
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[2048:2560] = header
    (tmp_path / "s.tar").write_bytes(data)
    first, second, *_, last = items(tmp_path)
    assert first.data == second.data == b"x" * 500
    assert isinstance(last.error, ImageError)
    assert last.error.code == "truncated"


@pytest.mark.parametrize(("length", "told"), [(100_000, None), (2_000_000, "truncated")])
def test_a_header_that_is_longer_than_a_name_can_be_is_not_read_into_memory(
    tmp_path: Path, length: int, told: str | None
) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"comment": "x" * length}
        archive.addfile(info)
    (found,) = items(tmp_path)
    assert (found.error.code if found.error else None) == told


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08", b"\x1f\x8b\x08\x04" + b"\0" * 6, b"BZh", b"\xfd7zXZ", b""])
def test_an_archive_that_ends_within_its_first_bytes_says_so(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "s.tar.gz").write_bytes(head)
    (found,) = items(tmp_path)
    assert isinstance(found.error, ImageError)
    assert found.error.code == "truncated"


def test_members_without_a_suffix_are_inputs_as_files_are(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"0a1b2c": b"1", "d/0a1b.jpg?w=64": b"2", "0a1b2c.txt": b"t"})
    assert [item.data for item in items(tmp_path)] == [b"1", b"2"]


def test_members_that_are_read_leave_no_memory(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {f"{number}.jpg": b"x" for number in range(2000)})
    for found in tars.read_items(
        {"file": str(tmp_path / "s.tar"), "uri_of_file": "a", "version": "v", "ids": None}, 1000
    ):
        assert len(found) == 1000
        assert sum(issubclass(type(thing), tarfile.TarInfo) for thing in gc.get_objects()) < 10
