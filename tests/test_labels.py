"""Labels by folder name, as the field's datasets lay them out."""

import pytest

from radet.labels import label_from_word, label_of


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("progan/airplane/0_real/1.png", (False, "progan/airplane")),  # ForenSynths
        ("progan/airplane/1_fake/1.png", (True, "progan/airplane")),
        ("sdv4/imagenet_ai_0419_sdv4/train/ai/x.PNG", (True, "sdv4/imagenet_ai_0419_sdv4/train")),  # GenImage
        ("sdv4/imagenet_ai_0419_sdv4/train/nature/x.JPEG", (False, "sdv4/imagenet_ai_0419_sdv4/train")),
        ("Midjourney/1_fake/a/b.png", (True, "Midjourney")),  # AIGCDetectBenchmark, with folders below the label
        ("REAL/x.jpg", (False, "")),
        ("FAKE/x.jpg", (True, "")),
        ("real/sd/fake/x.jpg", (True, "real/sd")),
    ],
)
def test_trees_read_as_they_are(path: str, expected: tuple[bool, str]) -> None:
    assert label_of(path) == expected


@pytest.mark.parametrize("path", ["x.jpg", "photos/x.jpg", "fakes/x.jpg", "a/real"])
def test_no_label_is_no_label(path: str) -> None:
    assert label_of(path) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("fake", True),
        ("AI", True),
        (1, True),
        ("1", True),
        ("real", False),
        (0, False),
        ("nature", False),
        ("maybe", None),
    ],
)
def test_label_words(word: object, expected: bool | None) -> None:
    assert label_from_word(word) is expected
