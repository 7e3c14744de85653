"""When a front refuses pictures by itself: where the scorers would, once they were read and decoded for nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.failures import RequestError

_BELIEVED_S = 1.0  # scorers come and go, and other fronts send more or less


class Backlog:
    """Pictures on their way through one front, and how many the scorers take from it, as their refusals tell.

    A refusal says that what the scorers hold of this front is all that they take now. For a second after, single
    pictures come in only as others leave; then one more is let through, and the next refusal tells again. Where
    other fronts have taken all, one picture at a time goes on asking.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._inside = self._sent = self._most = 0
        self._until = clock()

    def check(self) -> None:
        """Raises RequestError("overloaded") where one more picture would be refused by the scorers."""
        if self._inside >= self._most and self._clock() < self._until:
            raise RequestError("overloaded", "the queue is full: try again soon")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A picture, from before it is read to its answer."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @contextmanager
    def sent(self) -> Iterator[None]:
        """A picture that a scorer is asked for."""
        self._sent += 1
        try:
            yield
        except RequestError as error:
            if error.code == "overloaded":
                self._most, self._until = max(1, self._sent - 1), self._clock() + _BELIEVED_S
            raise
        finally:
            self._sent -= 1
