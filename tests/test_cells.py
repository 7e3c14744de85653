"""Pictures inside Parquet files, one location each."""

import json
import os
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3fs import S3FileSystem

from pipelines.cells import Cell
from pipelines.fetch import Fetcher
from pipelines.labelled import Labelled, list_labelled
from radet.errors import ConfigError, FetchError

from .test_parquet import damaged
from .training import write_tree


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RADET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(file: Path, listed: Labelled, *, struct: bool, rows: slice = slice(None)) -> None:
    data = [Path(location).read_bytes() for location in listed.locations[rows]]
    image = pa.array([{"bytes": one, "path": "x"} for one in data] if struct else data)
    labels = ["fake" if generated else "real" for generated in listed.generated[rows]]
    table = pa.table({"image": image, "label": labels, "generator": listed.sources[rows]})
    pq.write_table(table, file, row_group_size=5)


@pytest.fixture
def tree(tmp_path: Path, photographs: list[Image.Image]) -> Labelled:
    return list_labelled(str(write_tree(tmp_path / "tree", photographs, 24)))


def test_a_cache_without_room_is_told_and_holds_nothing_half_written(
    tree: Labelled, tmp_path: Path, cache: Path
) -> None:
    write(tmp_path / "one.parquet", tree, struct=False)
    location = list_labelled(str(tmp_path / "one.parquet")).locations[0]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # bytes of a file
    try:
        with pytest.raises(ConfigError, match=r"cells cannot be written to: .*; RADET_CACHE names a folder with room"):
            Fetcher(allow_http=False).read(location)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(cache.rglob("*.tmp"))
    assert Fetcher(allow_http=False).read(location)


@pytest.mark.parametrize("struct", [False, True])
def test_a_dataset_with_bytes_is_the_tree_that_it_was_made_from(tree: Labelled, tmp_path: Path, struct: bool) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    write(folder / "0.parquet", tree, struct=struct, rows=slice(0, 13))
    write(folder / "1.parquet", tree, struct=struct, rows=slice(13, 24))
    (folder / "README.md").write_text("about it")
    listed, fetcher = list_labelled(str(folder)), Fetcher(allow_http=False)
    assert len(listed.locations) == len(set(listed.locations)) == 24
    expected = {
        Path(location).read_bytes(): (bool(generated), source)
        for location, generated, source in zip(tree.locations, tree.generated, tree.sources, strict=True)
    }
    order = np.random.default_rng(0).permutation(24)
    read = {fetcher.read(listed.locations[i]): (bool(listed.generated[i]), listed.sources[i]) for i in order}
    assert read == expected


def test_a_row_group_is_read_once_and_again_when_the_file_changed(tree: Labelled, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "one.parquet"
    write(file, tree, struct=False)
    fetcher = Fetcher(allow_http=False)
    before = list_labelled(str(file))
    first = fetcher.read(before.locations[0])
    laid_down = sorted(path.name for path in cache.rglob("*.arrow"))
    assert len(laid_down) == 1
    assert fetcher.look(before.locations[0]).version is not None

    write(file, Labelled(tree.locations[::-1], tree.generated[::-1], tree.sources[::-1], 0), struct=False)
    os.utime(file, (1, 1))
    after = list_labelled(str(file))
    assert not set(after.locations) & set(before.locations)
    assert fetcher.read(after.locations[0]) != first
    assert fetcher.read(before.locations[0]) == first, "a run that has begun goes on with what it listed"
    assert len(list(cache.rglob("*.arrow"))) == 2
    assert not list(cache.rglob("*.tmp"))


@pytest.mark.parametrize(
    "location",
    [
        *("parquet://", "parquet://v/image/0!x.parquet", "parquet://v/image/zero/0!x.parquet"),
        *("degraded://fog:3!{file}", "degraded://jpeg:75!" * 3000 + "{file}"),
    ],
)
def test_what_names_no_row_is_not_found(tree: Labelled, tmp_path: Path, location: str) -> None:
    with pytest.raises(FetchError) as caught:
        Fetcher(allow_http=False).read(location.format(file=tree.locations[0]))
    assert caught.value.code == "not_found"


def test_rows_groups_columns_and_files_that_are_not_there(tree: Labelled, tmp_path: Path) -> None:
    file = tmp_path / "one.parquet"
    write(file, tree, struct=False)
    good = Cell(str(file), "v", "image", 0, 0)
    fetcher = Fetcher(allow_http=False)
    assert fetcher.read(good.location) == Path(tree.locations[0]).read_bytes()
    for wrong, code in (
        (good._replace(row=5), "not_found"),
        (good._replace(row=-1), "not_found"),
        (good._replace(group=99), "not_found"),
        (good._replace(group=10**20), "not_found"),
        (good._replace(column="none"), "not_found"),
        (good._replace(file="\0"), "not_found"),
        (good._replace(file=tree.locations[0]), "not_found"),
        (good._replace(file=str(tmp_path / "none.parquet")), "not_found"),
    ):
        with pytest.raises(FetchError) as caught:
            fetcher.read(wrong.location)
        assert caught.value.code == code, wrong
    with pytest.raises(FetchError) as caught:
        Fetcher(allow_http=False, max_bytes=10).read(good.location)
    assert caught.value.code == "too_large_bytes"


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([{"path": "x"}]), pa.array([[b"x"]])])
def test_a_column_of_anything_else_has_no_pictures(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    with pytest.raises(FetchError, match="has no pictures 'image' to be read") as caught:
        Cell(str(tmp_path / "a.parquet"), "v", "image", 0, 0).read()
    assert (caught.value.code, caught.value.transient) == ("not_found", False)


def test_a_row_on_s3_that_cannot_be_reached_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("MAX_ATTEMPTS", "1"), ("ACCESS_KEY_ID", "a")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(FetchError) as caught:
            Fetcher(allow_http=False).read("parquet://v/image/0/0!s3://bucket/a.parquet")
    finally:
        S3FileSystem.clear_instance_cache()
    assert (caught.value.code, caught.value.transient) == ("unreachable", True)


def test_a_column_may_have_any_name() -> None:
    cell = Cell("/data/a!b.parquet", "12-34", "the image/s!", 3, 4)
    assert Cell.parse(cell.location) == cell
    assert Cell.parse("/data/a.parquet") is None


def test_a_dataset_without_labels_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([b"x"])}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="label"):
        list_labelled(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("names", [["fake", "real"], ["real", "fake"]])
def test_numbers_of_labels_mean_what_the_dataset_calls_them(tmp_path: Path, names: list[str]) -> None:
    """Hugging Face numbers classes by their names' order."""
    table = pa.table({"image": [b"f", b"r", b"?"], "label": [names.index("fake"), names.index("real"), None]})
    pq.write_table(table.replace_schema_metadata(classes(names)), tmp_path / "a.parquet")
    found = list_labelled(str(tmp_path))
    read = Fetcher(allow_http=False).read
    assert {read(at): made for at, made in zip(found.locations, found.generated.tolist(), strict=True)} == {
        b"f": True,
        b"r": False,
    }
    assert found.skipped == 1
    pq.write_table(table.replace_schema_metadata(classes(["AiArt", "Art"])), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"calls its labels 'AiArt', 'Art', of which none is known"):
        list_labelled(str(tmp_path))


def classes(names: list[str]) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})}


def test_labels_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    damaged(tmp_path / "a.parquet", pa.table({"uri": [f"/{n}.jpg" for n in range(4)], "label": [0, 1, 0, 1]}))
    with pytest.raises(ConfigError, match=r"row group 1 of .*a\.parquet cannot be read"):
        list_labelled(str(tmp_path))
