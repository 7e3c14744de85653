"""Libraries of encoders say things while they load that a user of radet can do nothing with."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_root_logger() -> Iterator[None]:
    """Nothing that is logged by the root logger meanwhile is shown."""

    def refuse(_: logging.LogRecord) -> bool:
        return False

    root = logging.getLogger()
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers draws no progress bar meanwhile, which it does over a file on this disk too."""
    from transformers.utils import logging as bars  # noqa: PLC0415 - as in radet.encoders

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
