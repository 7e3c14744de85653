"""Against a real executor: a second callback looks at what the first one left."""

from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipelines.block_stats import ForgetBlockStats

_BLOCKS = 60


class _Look(ExecutionCallback):  # type: ignore[misc]
    most = 0

    def on_execution_step(self, executor: Any) -> None:
        kept = [len(found) for operator in executor._topology for found in operator.get_stats().values()]
        _Look.most = max(_Look.most, *kept)


@pytest.mark.ray
@pytest.mark.parametrize("forget", [True, False])
def test_nothing_is_kept_of_blocks_that_have_passed(
    forget: bool, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Look, "most", 0)
    chosen = [ForgetBlockStats, _Look] if forget else [_Look]
    monkeypatch.setattr(DataContext.get_current(), "custom_execution_callback_classes", chosen)

    def double(table: pa.Table) -> pa.Table:
        return table.set_column(0, "id", pa.compute.multiply(table["id"], 2))

    dataset = ray.data.range(_BLOCKS, override_num_blocks=_BLOCKS).map_batches(double, batch_format="pyarrow")
    assert sorted(row["id"] for row in dataset.iter_rows()) == list(range(0, 2 * _BLOCKS, 2))
    assert _Look.most == (0 if forget else _BLOCKS)
