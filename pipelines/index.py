"""What is known of every input and every content, on local disk: answers "is this new?" with bounded memory.

An SQLite file that lives as long as a run. It is filled from the output's ledger at the start (what is committed, what
is staged), then records what the run lists. Nothing in it is needed after a crash: the ledger is the truth.
"""

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.schema import JOIN, SAME, SCORED

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -8192;  -- 8 MiB
CREATE TABLE done (key BLOB PRIMARY KEY, version BLOB, sha BLOB, retry INT, staged INT, count INT) WITHOUT ROWID;
CREATE TABLE overtaken (key BLOB PRIMARY KEY, run TEXT) WITHOUT ROWID;  -- the latest committed run that has it
CREATE TABLE passed_over (run TEXT, key BLOB, kind INT, PRIMARY KEY (run, key, kind)) WITHOUT ROWID;
CREATE TABLE content (sha BLOB PRIMARY KEY, owner BLOB) WITHOUT ROWID;  -- owner: null where a committed run has it
CREATE TABLE listed (key BLOB PRIMARY KEY, place INT) WITHOUT ROWID;
CREATE TABLE shard (id INTEGER PRIMARY KEY, payload TEXT, inputs INT, met INT, begun INT);  -- inputs: null if unknown
CREATE TABLE container (key BLOB PRIMARY KEY, version BLOB, count INT) WITHOUT ROWID;
"""


def digest(*parts: str) -> bytes:
    """16 bytes that identify a tuple of strings (lone surrogates of undecodable file names included)."""
    text = "\0".join(parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Known(NamedTuple):
    """One input of an earlier run, committed or staged."""

    key: bytes
    version: bytes | None
    sha: bytes | None  # sha256 of the content; null if it was never fetched, or for a container
    retry: bool
    inputs: int  # how many it stands for: 1, or a container's


class Counts(NamedTuple):
    """What the listing has met so far."""

    new: int  # inputs this run has to give a row
    unchanged: int  # inputs that an earlier run has done
    resumed: int  # inputs that an interrupted run has staged
    repeated: int  # the same id and uri met again in this run
    again: int = 0  # of the new ones, those that a committed run failed at in a way that may pass


class Index:
    """Thread-safe; one per run."""

    def __init__(self, path: Path, *, limit: int | None = None) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.executescript(_TABLES)
        self._lock = threading.RLock()
        self._limit = limit
        self.put_off = False  # whether the limit has left inputs to a later run
        self._new = self._unchanged = self._resumed = self._repeated = self._again = 0
        self._staged = 0  # distinct inputs that interrupted runs left behind
        self._restaged = 0  # of these, the ones that this run does again: they changed since, or may be had by now
        self._ahead = 0  # inputs of shards that are not met yet
        self._uncounted = self._finished = 0  # archives that hold nobody knows how many; containers read to their end

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # --- filled from the ledger -------------------------------------------------------------------------------

    def add_committed(self, inputs: Iterable[Known]) -> None:
        """Inputs of a committed run; later runs override earlier ones."""
        rows = [(k.key, k.version, k.sha, k.retry, 0, k.inputs) for k in inputs]
        with self._lock, self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?)", rows)
            shas = [(row[2],) for row in rows if row[2] and not row[3]]  # what is tried again is not known yet
            self._database.executemany("INSERT OR IGNORE INTO content VALUES (?, NULL)", shas)

    def overtake(self, run: str, keys: Iterable[bytes]) -> None:
        """What a committed run has: it is newer than what runs before it have staged of the same inputs."""
        with self._lock, self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO overtaken VALUES (?, ?)", ((key, run) for key in keys))

    def add_staged(self, run: str, inputs: Iterable[tuple[Known, int]]) -> None:
        """Inputs (with their kind) that an interrupted run left staged; such runs in their order.

        Passed over: what a later run has committed since, and a JOIN whose content nobody has scored, its owner being
        lost with the interruption. Hence the caller adds all SCORED rows before it adds JOIN rows.
        """
        with self._lock, self._transaction():
            for known, kind in inputs:
                later = self._one("SELECT run FROM overtaken WHERE key = ?", known.key)
                unknown = kind == JOIN and not self._one("SELECT 1 FROM content WHERE sha = ?", known.sha)
                if unknown or (later and later[0] > run):
                    self._database.execute("INSERT OR IGNORE INTO passed_over VALUES (?, ?, ?)", (run, known.key, kind))
                    continue
                old = self._one("SELECT staged FROM done WHERE key = ?", known.key)
                self._staged += not (old and old[0])
                self._database.execute(
                    "INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, 1, 1)",
                    (known.key, known.version, known.sha, known.retry),
                )
                if kind == SCORED and known.sha and not known.retry:
                    self._database.execute("INSERT OR IGNORE INTO content VALUES (?, ?)", (known.sha, known.key))

    def passed_over(self, run: str) -> set[tuple[bytes, int]]:
        """Keys and kinds of this run's staged rows that stand for no input."""
        with self._lock:
            return set(self._database.execute("SELECT key, kind FROM passed_over WHERE run = ?", (run,)))

    # --- asked while listing and loading ----------------------------------------------------------------------

    def admit(self, place: int, inputs: Sequence[tuple[bytes, bytes | None]]) -> list[bool]:
        """For each (key, version): does this run have to do it?

        `place` numbers the first input within the whole listing; asking again for the same place gives the same answer,
        so that a retried task goes on as the first one would have.
        """
        answers = []
        with self._lock, self._transaction():
            for offset, (key, version) in enumerate(inputs):
                listed = self._one("SELECT place FROM listed WHERE key = ?", key)
                if listed:
                    answers.append(listed[0] == place + offset)
                    self._repeated += not answers[-1]
                    continue
                done = self._one("SELECT version, sha, retry, staged FROM done WHERE key = ?", key)
                if done and self._is_settled(version, *done):
                    self._resumed += done[3]
                    self._unchanged += not done[3]
                    answers.append(False)
                    continue
                again = bool(done and done[2] and not done[3])
                # Half of a limit: else hosts that are dead, first in a list, would use it up each night.
                if self.limit_reached or (again and self._limit is not None and self._again >= self._limit / 2):
                    self.put_off = True
                    answers.append(False)
                    continue
                self._database.execute("INSERT INTO listed VALUES (?, ?)", (key, place + offset))
                self._new += 1
                self._again += again
                self._restaged += bool(done and done[3])
                answers.append(True)
        return answers

    def _is_settled(
        self, version: bytes | None, done_version: bytes | None, sha: bytes | None, retry: int, staged: int
    ) -> bool:
        if retry:
            return False  # also where the run that this one resumes has failed at it
        if staged and version is None:
            return True  # staged moments ago by that run
        # Without a version only a permanent failure to fetch is settled; content has to be fetched to be compared. Not
        # by a run with a limit, which would never get beyond what it compares.
        return version == done_version and (version is not None or sha is None or self._limit is not None)

    def claim(self, inputs: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """For each (sha256, key): SCORED (decode and score it), JOIN or SAME. The same question, the same answer."""
        answers = []
        with self._lock, self._transaction():
            for sha, key in inputs:
                done = self._one("SELECT sha, retry, staged FROM done WHERE key = ?", key)
                if done and done[0] == sha and not done[1] and not done[2]:
                    answers.append(SAME)
                    continue
                content = self._one("SELECT owner FROM content WHERE sha = ?", sha)
                if content is None:
                    self._database.execute("INSERT INTO content VALUES (?, ?)", (sha, key))
                answers.append(SCORED if content is None or content[0] == key else JOIN)
        return answers

    # --- containers: tars and Parquet row groups that need not be opened again when nothing in them changed -------

    def skip_container(self, key: bytes, version: bytes) -> bool:
        """Whether an earlier run read the same version of this container to its end."""
        with self._lock:
            done = self._one("SELECT version, count FROM done WHERE key = ?", key)
            if done is None or done[0] != version:
                return False
            self._unchanged += done[1]
        return True

    def finish_container(self, key: bytes, version: bytes, count: int) -> None:
        """This version of a container was read to its end, and held `count` inputs."""
        with self._lock:
            self._finished += not self._one("SELECT 1 FROM container WHERE key = ?", key)
            self._database.execute("INSERT OR REPLACE INTO container VALUES (?, ?, ?)", (key, version, count))

    def containers(self) -> list[tuple[bytes, bytes, int]]:
        """Key, version and number of inputs of those that this run has read to their end."""
        with self._lock:
            return self._database.execute("SELECT key, version, count FROM container").fetchall()

    # --- the spool of shards -------------------------------------------------------------------------------------

    def add_shard(self, shard: int, payload: str, inputs: int | None) -> None:
        """`inputs` that will be met when it is read; None: nobody knows before."""
        with self._lock:
            self._database.execute("INSERT INTO shard VALUES (?, ?, ?, 0, 0)", (shard, payload, inputs))
            self._ahead += inputs or 0
            self._uncounted += inputs is None

    def meet(self, shard: int, inputs: int) -> None:
        """So many inputs of a shard have been met; a retried task meets them again."""
        with self._lock:
            known, met = self._one("SELECT inputs, met FROM shard WHERE id = ?", shard)
            if known is not None and met < (now := min(inputs, known)):
                self._database.execute("UPDATE shard SET met = ? WHERE id = ?", (now, shard))
                self._ahead -= now - met

    def begin(self, shard: int) -> int:
        """How often a task has begun to read it before: a process that dies is followed by another one."""
        with self._lock:
            (begun,) = self._one("UPDATE shard SET begun = begun + 1 WHERE id = ? RETURNING begun - 1", shard)
            return int(begun)

    def wants(self, place: int, end: int) -> bool:
        """Whether an input listed from `place` on, up to `end`, may have to be done: a limit ends that."""
        with self._lock:
            query = "SELECT 1 FROM listed WHERE place >= ? AND place < ?"
            return not self.limit_reached or self._one(query, place, end) is not None

    def shards(self, first: int, count: int) -> list[str]:
        """The payloads of up to `count` shards from number `first` on, as far as they are spooled."""
        with self._lock:
            query = "SELECT payload FROM shard WHERE id >= ? AND id < ? ORDER BY id"
            return [row[0] for row in self._database.execute(query, (first, first + count))]

    # --- the sums ------------------------------------------------------------------------------------------------

    @property
    def ahead(self) -> int:
        """Inputs that are listed and not met: some of them may be done already."""
        with self._lock:
            return self._ahead if self._limit is None else min(self._ahead, max(0, self._limit - self.expected))

    @property
    def uncounted(self) -> bool:
        """Whether there are inputs ahead that nobody has counted: in archives that are not read to their end."""
        with self._lock:
            return self._uncounted > self._finished and not self.limit_reached

    def counts(self) -> Counts:
        with self._lock:
            return Counts(self._new, self._unchanged, self._resumed, self._repeated, self._again)

    @property
    def limit_reached(self) -> bool:
        """Whether the run has as many inputs as it may take on."""
        with self._lock:
            return self._limit is not None and self.expected >= self._limit

    @property
    def expected(self) -> int:
        """Distinct inputs that must be staged before this run may commit."""
        with self._lock:
            return self._new + self._staged - self._restaged

    def _one(self, query: str, *values: object) -> Any:
        with closing(self._database.execute(query, values)) as cursor:
            return cursor.fetchone()

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._database)


class _Transaction:
    """BEGIN ... COMMIT around many small statements: one per batch rather than one per row."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN")

    def __exit__(self, *_: object) -> None:
        self._database.execute("COMMIT")
