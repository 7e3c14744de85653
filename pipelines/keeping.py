"""What happens to new settings that are wrong, in a replica that has others already: it keeps those.

Serve stops a replica whose `reconfigure` raises, and then the next one, which gets the same settings: after a typo in
`user_config` nothing would be left that scores. So only the first settings of a replica may fail.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.observe import Meters
from radet.errors import ConfigError

_log = logging.getLogger("ray.serve")


class Keeping:
    """Belongs to one replica, whose `meters` tell when settings are refused."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self.has_settings = False

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Around what takes new settings, and changes nothing where it raises ConfigError."""
        refused = False
        try:
            yield
        except ConfigError as error:
            if not self.has_settings:
                raise
            refused = True
            _log.error("user_config is refused, and the one before stays: %s", error.message)
        self.has_settings = True
        self._meters.settings(refused=refused)
