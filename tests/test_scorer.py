"""The process of a run that scores, without Ray around it."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.schema import LOADED, pack, unpack
from pipelines.score import Scorer
from radet import Detector
from radet.errors import ConfigError
from radet.images import Pixels


def loaded(*crops: Pixels | None) -> pa.Table:
    """A batch of the CPU stage; None: a picture that could not be read."""
    rows = [
        {
            "id": str(number),
            "uri": "u",
            "status": "empty" if crop is None else "ok",
            "crop": None if crop is None else crop.tobytes(),
        }
        for number, crop in enumerate(crops)
    ]
    return pack(pa.Table.from_pylist(rows, schema=LOADED))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained("radet-lite")


@pytest.fixture(scope="module")
def crops(detector: Detector) -> Pixels:
    size = detector.config.crop.size
    return np.random.default_rng(0).integers(0, 255, (3, size, size, 3), np.uint8)


def test_each_row_has_the_evidence_of_its_own_crop(detector: Detector, crops: Pixels) -> None:
    scorer = Scorer(model="radet-lite", model_id=detector.model_id, batch_size=2, device="cpu")
    found = unpack(scorer(loaded(crops[0], None, crops[1], crops[2]))).to_pylist()
    assert [row["id"] for row in found] == ["0", "1", "2", "3"]
    assert {row["model_id"] for row in found} == {detector.model_id}
    assert found.pop(1)["logit"] is None
    expected = detector.evidence(crops)
    for number, row in enumerate(found):
        for name in ("logit", "p_generated", "drift_cosine"):
            assert row[name] == pytest.approx(expected.row(number)[name], abs=1e-5), name


def test_a_node_that_has_another_model_of_that_name_scores_nothing(crops: Pixels) -> None:
    scorer = Scorer(model="radet-lite", model_id="0" * 16, batch_size=2, device="cpu")
    with pytest.raises(ConfigError, match=r"radet-lite is another model on this node: .*, not 0000"):
        scorer(loaded(crops[0]))
