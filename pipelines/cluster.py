"""The Ray cluster that a run happens on, and the errors that come back from it."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import psutil
import ray
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.commit import IncompleteError
from pipelines.process import WORKER_ENV, cores
from radet.errors import ConfigError, FetchError, ModelError

_STORE_BYTES, _STORE_BYTES_A_CORE, _STORE_SHARE = 1 << 30, 256 << 20, 0.3
_STORE_BYTES_ON_MACOS = 2 << 30  # the most that Ray accepts there
_CONNECT_S = 10.0
_WORDS = ("auto", "local")  # that Ray takes for an address
_END_S = 5.0
_STATE_ADDRESS = "RAY_API_SERVER_ADDRESS"
_NO_STATE = "http://127.0.0.1:9"  # the port of the discard protocol, at which nothing listens
#: Of Ray Data: they write the traces of what is raised as well, which is then told in one line, or with its trace.
_TRACES = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")


def purpose_of(error: BaseException) -> Exception | None:
    """The error that was raised on purpose, somewhere on a worker, below Ray's own."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen) in (FetchError, ConfigError, ModelError, IncompleteError):
            # Inputs' errors are rows: a FetchError that comes this far is about the output or the listing.
            return ConfigError(str(seen)) if isinstance(seen, FetchError) else cast(Exception, seen)
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None


def driver_node() -> NodeAffinitySchedulingStrategy:
    """For actors that a run cannot do without: on the driver's node, they are lost only with the driver."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's C++ core greets on the file descriptor itself; what goes wrong still comes as an exception."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _require_head(address: str) -> None:
    """Raises ConfigError where nothing listens at HOST:PORT, or Ray could not read it; "auto" and ray:// are Ray's to
    resolve."""
    if address.startswith(("http://", "https://")) or (":" not in address and address not in _WORDS):
        mend = "give HEAD:6379, or auto on a node of the cluster (http://HEAD:8265 is for `radet submit`)"
        raise ConfigError(f"no Ray cluster at {address or 'an empty address'}: {mend}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}") from error


def _job() -> JobConfig:
    """Workers look for modules where this process does. By itself Ray has them look in the folder that the command was
    called in, too, and first there: a file with the name of a package would be run in its place."""
    here = {"", os.getcwd()} & set(sys.path)  # as under `python -m`
    return JobConfig(_client_job=not here)  # which Ray reads to leave that folder out


@contextmanager
def _stateless() -> Iterator[None]:
    """What starts meanwhile asks nobody for the state of actors.

    A run of one's own has no dashboard, yet tells its workers that it is at Ray's usual port. Where another cluster's
    is, Ray Train would ask that one whether its controller lives, hear that there is none, and stop the training.
    """
    before = os.environ.get(_STATE_ADDRESS)
    os.environ[_STATE_ADDRESS] = _NO_STATE
    try:
        yield
    finally:
        del os.environ[_STATE_ADDRESS]
        if before is not None:
            os.environ[_STATE_ADDRESS] = before


def _store_bytes() -> int:
    """Of a local run's object store: some dozens of batches of crops, which are four times as large beside a GPU."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = max(_STORE_BYTES, min(cores() * _STORE_BYTES_A_CORE, int(_STORE_SHARE * memory)))
    return min(found, _STORE_BYTES_ON_MACOS) if sys.platform == "darwin" else found


def _join(address: str, quiet: dict[str, Any]) -> None:
    """Connect to a cluster that is there already."""
    _require_head(address)
    # Ray asks a head that does not answer twenty times, for 40 s each.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    with _without_stderr():
        ray.init(address, job_config=_job(), runtime_env={"env_vars": WORKER_ENV}, **quiet)


def _set_up_own() -> None:
    """The environment of a Ray that is about to be started here; what is set already stays."""
    # Ray listens on every network interface, whatever address it is given, and wants a token unless it is told
    # otherwise: without one, whoever reaches this machine could run code on it. This token is gone with the run; Ray's
    # own would lie in the home folder and be sent to other heads, too.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for name, value in WORKER_ENV.items():
        os.environ.setdefault(name, value)
    # Ray ends idle workers above one a core after a second. On a laptop those are the loaders, each time they are
    # ahead, and the next one imports torch again.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # Nobody reads the metrics and task events of a cluster that has no dashboard: 2 % of two cores.
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")


def _start_here(quiet: dict[str, Any]) -> None:
    """Start Ray on this machine. Ray waits for half a minute, which a machine that is busy otherwise may not meet."""
    for last in (False, True):
        try:
            with _without_stderr(), _stateless():
                ray.init(
                    "local",
                    job_config=_job(),
                    include_dashboard=False,
                    object_store_memory=_store_bytes(),
                    **quiet,
                )
            _end_log_monitor()
            return
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, ConnectionError):  # sockets have short names only
                place = "RAY_TMPDIR, else TMPDIR, or /tmp: a short path that can be written to"
                raise ConfigError(f"Ray cannot start here: {error}; its files lie in {place}") from error
            if "timed out" not in str(error).lower():  # Ray's own classes for this are Exception and RuntimeError
                raise
            ray.shutdown()
            if last:
                why = "this machine is too busy, or the folder of its files is full (RAY_TMPDIR, else TMPDIR, or /tmp)"
                raise ConfigError(f"Ray did not start in twice half a minute: {why}") from error


def _end_log_monitor() -> None:
    """It looks ten times a second for what workers have written, for a driver that shows it: 1 % of a core."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any(part.endswith("/log_monitor.py") for part in child.cmdline()):
                child.kill()
                child.wait()


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, from a timeout, a scheduler or a container's end, is a KeyboardInterrupt meanwhile. Ray's own handler,
    which has just been set, aborts with a trace of C++ and leaves nobody time to say how to go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _shut_down() -> None:
    """Disconnect; a Ray that was started here ends, with all of its processes.

    One that hangs in its own exit handlers is none that Ray still knows of, and would stay for good: now and then a Ray
    Train controller does (of Ray 2.60; what is still to be published at exit locks a mutex that is gone).
    """
    workers: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            workers += child.children(recursive=True) if child.name() == "raylet" else []
    ray.shutdown()
    _, hanging = psutil.wait_procs(workers, timeout=_END_S)
    for worker in hanging:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; a connection that is already there is used and kept."""
    if address is None:
        # Nothing to scale; and Ray Data's usual autoscaler reserves what the stages have asked for and rounds the rest
        # of a node down to whole CPUs. Of two a run had 1.2: one loader, and nothing for the stage that writes.
        os.environ.setdefault("RAY_DATA_CLUSTER_AUTOSCALER", "V2")
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for name in _TRACES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"The m(in|ax)imum number of concurrent", UserWarning)  # a corpus may be small
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else C++ notes land amid the progress
    try:
        if address is not None:
            _join(address, quiet)
        else:
            _set_up_own()
            _start_here(quiet)
    except ConnectionError as error:
        # Something listens there; a head that holds another token answers no more than what is no head.
        mend = "if there is one, is RAY_AUTH_TOKEN its own (`ray get-auth-token` on the head)?"
        raise ConfigError(f"no Ray cluster at {address} that answers: {error}; {mend}") from error
    except UnicodeEncodeError as error:  # it sends the command line to itself as UTF-8
        mend = "name what is in its way by a link with a plainer name, or give the folder above it"
        raise ConfigError(f"Ray cannot be started by a command that is not UTF-8: {mend}") from error
    except AuthenticationError as error:
        mend = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (`ray get-auth-token` on the head)"
        raise ConfigError(f"the Ray cluster at {address} wants a token: {mend}") from error
    except SystemExit:  # by the handler of SIGTERM that Ray sets while it starts: see _ended_as_by_ctrl_c
        raise KeyboardInterrupt from None
    try:
        with _ended_as_by_ctrl_c():
            yield
    finally:
        _shut_down()
