"""Lines of manifests: what names the columns, and what a quote out of place can take with it."""

from pathlib import Path

import pytest

from pipelines.labelled import list_labelled
from pipelines.manifests import first_line, lines
from pipelines.sources import open_source
from radet.errors import ConfigError


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def uris(src: str, **options: str) -> list[str]:
    shards = open_source(src, **options).shards(100)  # type: ignore[arg-type]
    return [entry.id for shard in shards for entry in shard.entries()]


@pytest.mark.parametrize("name", ["list.csv", "list.TSV"])
@pytest.mark.parametrize("text", ["0.jpg\n1.jpg\n", "uri;label\n0.jpg;real\n"])
def test_a_table_without_a_line_that_names_the_columns_is_refused(tmp_path: Path, name: str, text: str) -> None:
    src = written(tmp_path, name, text)
    told = rf"first line of .*{name} must name the columns, one of them `uri`; it is '{text.partition(chr(10))[0]}'"
    with pytest.raises(ConfigError, match=rf"{told}.*--column"):
        open_source(src)
    with pytest.raises(ConfigError, match=told):
        list_labelled(src)


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
