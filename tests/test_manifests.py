"""Lines of manifests: what names the columns, and what a quote out of place can take with it."""

from pathlib import Path

import pytest

from pipelines.fetch import Fetcher
from pipelines.labelled import list_labelled
from pipelines.manifests import first_line, lines
from pipelines.sources import open_source
from radet.errors import ConfigError, FetchError


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def uris(src: str, **options: str) -> list[str]:
    shards = open_source(src, **options).shards(100)  # type: ignore[arg-type]
    return [entry.id for shard in shards for entry in shard.entries()]


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("list.csv", "0.jpg\n1.jpg\n", "0.jpg"),
        ("list.csv", "0.jpg;1\n1.jpg;0\n", "0.jpg, 1"),
        ("list.TSV", "0.jpg\n1.jpg\n", "0.jpg"),
        ("list.TSV", "uri;label\n0.jpg;real\n", "uri;label"),
    ],
)
def test_a_table_without_a_line_that_names_the_columns_is_refused(
    tmp_path: Path, name: str, text: str, first: str
) -> None:
    src = written(tmp_path, name, text)
    told = rf"first line of .*{name} must name the columns, one of them `uri`; it is '{first}'"
    with pytest.raises(ConfigError, match=rf"{told}.*--column"):
        open_source(src)
    with pytest.raises(ConfigError, match=told):
        list_labelled(src)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("label;URL\nreal;a,b.jpg\nfake;c;d\n", ["a,b.jpg", "c"]),  # European Excel
        ('"name, first";Uri\nx;"a;b.jpg"\n', ["a;b.jpg"]),
        ("\ufeffuri;label\n0.jpg;real\n", ["0.jpg"]),
        ("URI,uri\nold.jpg,new.jpg\n", ["new.jpg"]),
        ("Path,URL\na.jpg,b.jpg\n", ["b.jpg"]),
        ("path,URL\na.jpg,b.jpg\n", ["a.jpg"]),
        ("uri,a;b\n0.jpg,1\na;b.jpg,2\n", ["0.jpg", "a;b.jpg"]),
        ("uri\na;b.jpg\nc,d.jpg\n", ["a;b.jpg", "c"]),
    ],
)
def test_the_line_that_names_the_columns_tells_what_separates_them_and_may_be_in_capitals(
    tmp_path: Path, text: str, found: list[str]
) -> None:
    assert uris(written(tmp_path, "a.csv", text)) == found


def test_a_list_that_is_no_utf8_is_told_of_the_pictures_that_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "Münster.jpg").touch()
    (tmp_path / "a.csv").write_bytes("uri;text\nMünster.jpg;x\n".encode("cp1252"))
    (entry,) = (entry for shard in open_source(str(tmp_path / "a.csv")).shards(9) for entry in shard.entries())
    for ask in (Fetcher(allow_http=False).look, Fetcher(allow_http=False).read):
        with pytest.raises(FetchError, match=r"No such file or directory; .* save the list as UTF-8"):
            ask(entry.location)


def test_labels_may_be_named_in_capitals_too(tmp_path: Path) -> None:
    src = written(tmp_path, "a.csv", "URI;Label;Generator\na.jpg;real;\nb.jpg;fake;sd3\n")
    assert list_labelled(src).sources == ["", "sd3"]


def test_the_only_column_may_have_any_name_where_it_is_asked_for_or_named_in_each_line(tmp_path: Path) -> None:
    assert uris(written(tmp_path, "a.csv", "picture\n0.jpg\n1.jpg\n"), column="picture") == ["0.jpg", "1.jpg"]
    assert uris(written(tmp_path, "a.jsonl", '{"picture": "0.jpg"}\n')) == ["0.jpg"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('0.jpg,a\n1.jpg,"an open one\n2.jpg,b\n3.jpg,c\n', 3),
        ('0.jpg,"two\nlines"\n1.jpg,"Hello" she said\n2.jpg,b\n', 4),
        ('0.jpg,"an open one\n1.jpg,b\n2.jpg,"c"\n', 2),
    ],
)
def test_a_stray_quote_in_a_csv_is_told_by_its_line(tmp_path: Path, rows: str, line: int) -> None:
    src = written(tmp_path, "a.csv", f"uri,caption\n{rows}")
    with pytest.raises(ConfigError, match=rf"a\.csv, line {line}: .*; is a quote left open\?"):
        list(lines(src))


def test_lines_of_a_tsv_stand_each_for_itself(tmp_path: Path) -> None:
    rows = ["0.jpg\tx", '1.jpg\t"Hello" she said', '2.jpg\t"an open one', '3.jpg\t"with\ta tab"', "4.jpg"]
    found = list(lines(written(tmp_path, "a.tsv", "\r\n".join(["uri\tcaption", *rows]) + "\r\n\r\n")))
    assert [(number, row["uri"], row["caption"]) for number, row in found] == [
        (2, "0.jpg", "x"),
        (3, "1.jpg", '"Hello" she said'),
        (4, "2.jpg", '"an open one'),
        (5, "3.jpg", "with\ta tab"),
        (6, "4.jpg", None),
    ]


def test_rows_of_a_csv_may_be_short_long_empty_and_of_several_lines(tmp_path: Path) -> None:
    src = written(tmp_path, "a.csv", 'uri,text\n0.jpg\n\n1.jpg,"two\nlines"\n2.jpg,x,more\n')
    assert list(lines(src)) == [
        (2, {"uri": "0.jpg", "text": None}),
        (5, {"uri": "1.jpg", "text": "two\nlines"}),
        (6, {"uri": "2.jpg", "text": "x"}),
    ]
    assert first_line(src) == {"uri": "0.jpg", "text": None}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_whole_page_of_text_may_stand_beside_an_address(tmp_path: Path, name: str) -> None:
    text = "x" * 1_000_000
    rows = {"a.csv": f"uri,text\n0.jpg,{text}\n", "a.tsv": f"uri\ttext\n0.jpg\t{text}\n"}
    src = written(tmp_path, name, rows.get(name) or f'{{"uri": "0.jpg", "text": "{text}"}}\n')
    ((_, row),) = lines(src)
    assert row == {"uri": "0.jpg", "text": text}
