"""Ray Data keeps figures of every block until a run ends, 4 KiB a batch over all stages; a night has millions of them.

Known to Ray (ray-project/ray#66016, open with 2.60) and of no use here: what a run tells comes with its batches.
"""

from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback


class ForgetBlockStats(ExecutionCallback):  # type: ignore[misc]
    """For DataContext.custom_execution_callback_classes: memory that does not grow with the number of blocks."""

    def on_execution_step(self, executor: Any) -> None:
        """Called by the thread that adds to these lists."""
        for operator in executor._topology:
            for of_blocks in operator.get_stats().values():
                of_blocks.clear()
