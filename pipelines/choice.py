"""Which staged row stands for each input, chosen on disk: an input can be staged twice.

A task was retried, a duplicate lost its original, a file changed before a resumption. Rows go into files by the first
bits of their key, so that one file, not the corpus, has to fit in memory; what remains per row is one byte.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8"), ("rank", "<u4")])
_ROWS_A_FILE = 200_000
_MOST_FILES = 256
_WRITTEN_AT_ONCE = 65_536


class Choice:
    """Chooses, of the rows that share a key, the one with the highest rank; of equal ranks the one added last."""

    def __init__(self, folder: Path, rows: int) -> None:
        """`folder` for its files, empty; `rows`: about how many there will be."""
        self._bits = min(max(0, (rows - 1) // _ROWS_A_FILE).bit_length(), _MOST_FILES.bit_length() - 1)
        self._paths = [folder / f"{number:03d}.rows" for number in range(1 << self._bits)]
        self._waiting: list[npt.NDArray[np.void]] = []
        self._lengths: list[int] = []

    def add(self, keys: bytes, ranks: npt.NDArray[np.integer]) -> None:
        """A block: keys of 16 bytes one after the other, and a rank each."""
        rows = np.empty(len(ranks), _ROW)
        halves = np.frombuffer(keys, dtype="<u8").reshape(-1, 2)
        rows["high"], rows["low"], rows["rank"] = halves[:, 0], halves[:, 1], ranks
        first = sum(self._lengths[-1:])
        rows["place"] = np.arange(first, first + len(rows))
        self._lengths.append(first + len(rows))
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _WRITTEN_AT_ONCE:
            self._write()

    def masks(self) -> list[npt.NDArray[np.bool_]]:
        """For each block, in the order they were added: which of its rows are chosen."""
        self._write()
        chosen = np.zeros(self._lengths[-1] if self._lengths else 0, dtype=bool)
        for path in self._paths:
            if not path.exists():
                continue
            rows = np.fromfile(path, _ROW)
            path.unlink()
            rows = rows[np.lexsort((rows["place"], rows["rank"], rows["low"], rows["high"]))]
            last = np.ones(len(rows), dtype=bool)
            last[:-1] = (rows["high"][1:] != rows["high"][:-1]) | (rows["low"][1:] != rows["low"][:-1])
            chosen[rows["place"][last]] = True
        return np.split(chosen, self._lengths[:-1]) if self._lengths else []

    def _write(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting)
        self._waiting.clear()
        files = (rows["high"] >> np.uint64(64 - self._bits)) if self._bits else np.zeros(len(rows), np.uint64)
        for number in np.unique(files):
            with self._paths[int(number)].open("ab") as file:
                rows[files == number].tofile(file)
