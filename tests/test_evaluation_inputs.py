"""What an evaluation draws from a listing, and which pictures belong together."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation_inputs import draw, pair_groups
from pipelines.labelled import Labelled
from radet.errors import ConfigError

LISTED = Labelled([f"/{n}.jpg" for n in range(100)], np.arange(100) == 63, ["made"] * 100, 0)


def test_both_classes_are_drawn_however_rare_one_is() -> None:
    for limit in (2, 10, 99):
        drawn = draw(LISTED, limit)
        assert len(set(drawn.locations)) == len(drawn.locations) == limit
        assert drawn.generated.tolist() == [location == "/63.jpg" for location in drawn.locations]
        assert drawn.generated.sum() == 1
        assert drawn.locations == sorted(drawn.locations, key=LISTED.locations.index) == draw(LISTED, limit).locations
    assert draw(LISTED, 100) is draw(LISTED, None) is LISTED
    with pytest.raises(ConfigError, match="leaves one class out: draw 2"):
        draw(LISTED, 1)


def test_a_manifest_of_groups_without_its_columns_is_told_what_they_are_called(tmp_path: Path) -> None:
    for header, says in (("photo,pair_group", "no column named uri or"), ("uri,kind", "named pair_group or group")):
        (tmp_path / "groups.csv").write_text(f"{header}\n/63.jpg,a\n")
        with pytest.raises(ConfigError, match=says) as refused:
            pair_groups(LISTED, str(tmp_path / "groups.csv"))
        assert "--column" not in str(refused.value)
        assert f"it has {header.replace(',', ', ')}" in str(refused.value)


def test_pictures_are_grouped_by_where_they_lie_however_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    groups = tmp_path / "lists" / "groups.csv"
    groups.write_text(f"uri,group\n../a.jpg,one\n{tmp_path}/./b.jpg,two\n,three\n{tmp_path}/c.jpg,\n")
    locations = [f"{tmp_path}/{name}.jpg" for name in "abcd"]
    assert pair_groups(LISTED._replace(locations=locations), str(groups)).tolist() == ["one", "two", "", ""]
    with pytest.raises(ConfigError, match="names none of the pictures"):
        pair_groups(LISTED, str(groups))
    assert pair_groups(LISTED, None).tolist() == LISTED.sources


def test_what_is_listed_is_told_in_words() -> None:
    made = np.array([False, False, True, True])
    assert Labelled(list("abcd"), made, ["", "", "sd", "sd"], 0).summary() == (
        "2 real and 2 generated pictures of 1 source"
    )
    assert Labelled(list("abcd"), made, ["", "", "sd", "gan"], 3).summary() == (
        "2 real and 2 generated pictures of 2 sources, 3 without a label left alone"
    )
