"""`radet serve`: the detector behind an HTTP endpoint, with a page."""

import logging
import os
import signal
import threading
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.console import Console

from jobs.haproxy import apart
from jobs.options import Address, Model
from jobs.ports import place, require_free
from jobs.spans import span
from jobs.stop import Stop
from radet.config import DetectorConfig, bundled, resolve
from radet.errors import ConfigError

#: What an operator sets in his shell, and every replica has to know.
_PASSED_ON = ("RADET_API_KEYS", "RADET_API_KEYS_FILE", "RADET_HTTP_TRUSTED", "RADET_WEIGHTS")

_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"

#: How often it is looked whether what serves is there, and how often in a row it is not where it is gone for good.
_LOOK_EVERY_S, _LOOKS = 2.0, 5

_ENDS = (signal.SIGINT, signal.SIGTERM)


def serve(
    model: Model = "radet-lite",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 for every network interface.")
    ] = "127.0.0.1",
    replicas: Annotated[str, typer.Option(help="Scorers: a number, or LEAST:MOST to scale with the load.")] = "1",
    gpus: Annotated[bool, typer.Option("--gpus", help="One GPU for each scorer.")] = False,
    allow_url: Annotated[bool, typer.Option("--allow-url", help="Read http(s) urls, from public addresses only.")] = (
        False
    ),
    haproxy: Annotated[
        bool,
        typer.Option(
            "--haproxy",
            help="HAProxy instead of Ray's own proxy: three tenths more pictures a second on two cores, and more than "
            "half before a GPU. Its own counts are then open to the network, at ports 8404 and 9101, or free ones.",
        ),
    ] = False,
    address: Address = None,
) -> None:
    """Answer over HTTP, until stopped: POST /v1/score, a page at /, documentation at /docs.

    API keys: RADET_API_KEYS or RADET_API_KEYS_FILE, with NAME:SHA256[:IMAGES_PER_MINUTE] entries. For a cluster that
    outlives this command, use `serve deploy cluster/serve.yaml`. docs/serving.md tells the rest.

    [bold]Examples[/bold]

      radet serve --model radet-lite --replicas 1:2

      curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/score
    """
    haproxy = _wants_haproxy(haproxy, host, here=address is None)
    _prepare(haproxy=haproxy, here=address is None)
    import ray
    from ray.exceptions import RayError

    from pipelines.alive import lost
    from pipelines.cluster import connected
    from pipelines.process import cores, fill_cores
    from pipelines.s3 import greet
    from pipelines.serve import ServeArgs, fronts_beside_gpus, require_place, require_room, start, stop
    from pipelines.weights import local_model

    greet(model)
    folder = resolve(local_model(model))  # a wrong name or config is told before anything starts
    DetectorConfig.read(folder)
    keys = _wants_keys(here=address is None)
    _check(host, port, allow_url=allow_url, here=address is None)
    console = Console(stderr=True, highlight=False, markup=False)
    least, most = span("--replicas", replicas)
    args = ServeArgs(
        model=model if "://" in model or (address and model in bundled()) else str(folder.absolute()),
        allow_url=allow_url,
        min_replicas=least,
        max_replicas=most,
        gpus=1.0 if gpus else 0.0,
        bound=address is None and not gpus and least == most and fill_cores(most),
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        **(fronts_beside_gpus(cores(), most) if gpus and address is None else {}),
    )
    stopped = threading.Event()

    def interrupt(*_: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    try:
        with apart() if haproxy else nullcontext(), connected(address):
            if address is None:
                require_room(args, ray.cluster_resources())
            else:
                require_place(host, port)
            logging.getLogger("ray.serve").setLevel(logging.WARNING)  # this command says itself what it does
            for number in _ENDS:
                signal.signal(number, interrupt)
            console.print(f"Starting {model} ...")
            try:
                start(args, host=host, port=port)
                if stopped.is_set():  # and something on the way up took the exception for one of its own
                    raise KeyboardInterrupt
                for number in _ENDS:
                    signal.signal(number, lambda *_: stopped.set())
                if not keys:
                    console.print("No API keys are set: whoever reaches this port may use it.", style="yellow")
                console.print(
                    f"Ready: http://{place(host, port)}/  (documentation at /docs; Ctrl-C stops)", soft_wrap=True
                )
                _wait(stopped)
                console.print("Stopping: requests under way are finished ...")
            except (RuntimeError, RayError) as error:
                raise _not_started(error) from None
            finally:
                if lost() is None:  # a stop waits for ever for what is gone
                    stop(alone=address is None)
    except KeyboardInterrupt:
        raise Stop("stopped before the service was ready", code=1) from None


def _not_started(error: Exception) -> ConfigError:
    """Why not: as the scorers told it, or else as Serve did."""
    from pipelines.serve import problems

    if isinstance(error, RuntimeError):
        told = [f"{problem.code}: {problem.message}" for problem in problems()]
        why = "; ".join(told[:1]) or str(error)
    else:  # of Ray itself: Serve waits a while for its own processes
        why = "a process of Ray Serve did not come up, as where the machine is too busy; try again"
        why += f" ({str(error).splitlines()[0]})"
    return ConfigError(f"the service did not start: {why}")


def _wait(stopped: threading.Event) -> None:
    """Returns when it is `stopped`. Raises Stop where what serves is gone, and was so for a while: a cluster's head may
    start again."""
    from pipelines.alive import lost

    looks = 0
    while not stopped.wait(_LOOK_EVERY_S):
        gone = lost()
        looks = looks + 1 if gone else 0
        if looks == _LOOKS:
            raise Stop(f"the service has ended: {gone} is gone; start it again", code=1)


def _wants_haproxy(asked: bool, host: str, *, here: bool) -> bool:
    """Raises ConfigError where it cannot be had."""
    if asked and not here:
        raise ConfigError(f"--haproxy: a cluster has it where {_HAPROXY}=1 was set before `ray start`")
    wanted = asked or (here and os.environ.get(_HAPROXY) == "1")
    if wanted and ":" in host:  # Ray writes it a configuration with which no replica is found
        raise ConfigError(f"HAProxy mode has no IPv6: give an IPv4 address, not --host {host}, or leave --haproxy out")
    return wanted


def _wants_keys(*, here: bool) -> bool:
    """Whether who asks needs a key. Raises ConfigError for a list that cannot be read."""
    from pipelines.access import Doorkeeper

    if not here and "RADET_API_KEYS_FILE" in os.environ:
        return True  # the nodes' file, which need not be here
    return Doorkeeper().closed


def _check(host: str, port: int, *, allow_url: bool, here: bool) -> None:
    """Raises ConfigError for what could be known to fail before anything starts."""
    from pipelines.http import HttpPolicy

    if allow_url:
        HttpPolicy.from_environment()
    if here:
        require_free(host, port)


def _prepare(*, haproxy: bool, here: bool) -> None:
    """Set what Ray Serve reads from the environment when it is imported, and its processes when they start."""
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")  # ten times a second took 4 % of a core
    if here:  # nobody reads what Ray measures of a service without a cluster; ours is at /metrics
        os.environ.setdefault("RAY_SERVE_METRICS_EXPORT_INTERVAL_MS", "10000")
        os.environ.setdefault("RAY_SERVE_HAPROXY_METRICS_ENABLED", "0")  # HAProxy would tell Python of each request
    if haproxy:
        os.environ[_HAPROXY] = "1"
        # How long a replica that is to end answers for balancers that do not know yet. This one is told at once, and
        # ends with it; with Ray's 30 s every stop took longer than Ray itself waits for it.
        os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "5")
