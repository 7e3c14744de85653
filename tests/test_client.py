"""`radet jobs` and what follows a job, against a head that says what a test wants to hear."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from jobs import client
from jobs.client import Cluster, _Log
from jobs.stop import Stop

from .nodes import radet
from .test_jobfile import SCORE, write

#: What somebody runs on the cluster without submitting it.
DRIVER = {"type": "DRIVER", "submission_id": None, "job_id": "02000000", "driver_info": None}


class Head:
    """Ray's Jobs API, as far as it is asked here. `states`: a job's status by id; `streams`: what its log's streams
    give, one after the other, each cut off without a word but for the last."""

    def __init__(self, states: dict[str, str], streams: tuple[str, ...] = ()) -> None:
        self.states, self.streams = states, list(streams)
        self.address = ""

    def _job(self, name: str) -> dict[str, Any]:
        return {"type": "SUBMISSION", "submission_id": name, "status": self.states[name], "entrypoint": "radet"}

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})

    async def all(self, _: web.Request) -> web.Response:
        jobs = [self._job(name) | {"start_time": number} for number, name in enumerate(self.states)]
        return web.json_response([self._job(next(iter(self.states))) | DRIVER, *jobs] if jobs else [])

    async def one(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response(self._job(name)) if name in self.states else web.Response(status=404)

    async def stop(self, request: web.Request) -> web.Response:
        return web.json_response({"stopped": self.states[request.match_info["name"]] == "RUNNING"})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.streams and (text := self.streams.pop(0)):
            await socket.send_str(text)
        if self.streams:
            assert request.transport is not None
            request.transport.abort()
        else:
            self.states = dict.fromkeys(self.states, "SUCCEEDED")
            await socket.close()
        return socket


@contextmanager
def listening(head: Head) -> Iterator[Head]:
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.add_routes(
        [
            web.get("/api/version", head.version),
            web.get("/api/jobs/", head.all),
            web.get("/api/jobs/{name}", head.one),
            web.post("/api/jobs/{name}/stop", head.stop),
            web.get("/api/jobs/{name}/logs/tail", head.tail),
        ]
    )
    runner = web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    head.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield head
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_POLL_S", 0.0)
    monkeypatch.setattr(client, "_PATIENCE_S", 0.0)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # which a Cluster leaves


def test_a_stream_that_is_cut_off_is_taken_up_again() -> None:
    """However long it lasted: the head's time to answer begins when it no longer does."""
    told: list[str] = []
    with listening(Head({"night": "RUNNING"}, ("a\n", "a\nb\n", "a\nb\nc\n"))) as head:
        job = Cluster(head.address).follow("night", told.append)
    assert ("".join(told), str(job.status)) == ("a\nb\nc\n", "SUCCEEDED")


def test_what_was_submitted_is_listed_and_nothing_else_the_latest_first() -> None:
    with listening(Head({"monday": "SUCCEEDED", "tuesday": "RUNNING"})) as head:
        assert [job.submission_id for job in Cluster(head.address).all()] == ["tuesday", "monday"]


class Silent(Head):
    """Its first stream neither says anything nor ends, as where the head's machine is gone."""

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        if self.streams:
            self.streams.clear()
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.receive()
            return socket
        return await super().tail(request)


@pytest.mark.timeout(60)
def test_a_stream_from_which_nothing_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_STREAM_S", 0.3)
    with listening(Silent({"night": "RUNNING"}, ("one",))) as head:
        assert str(Cluster(head.address).follow("night", lambda _: None).status) == "SUCCEEDED"


def test_a_head_that_is_lost_is_no_failure_of_the_job() -> None:
    with listening(Head({"night": "RUNNING"}, ("", "", ""))) as head:
        cluster = Cluster(head.address)
        with pytest.raises(Stop) as lost:
            cluster.follow("night", lambda _: None)
    assert lost.value.code == 1, "send it again, as after a job that did not get through"
    assert f"`radet jobs status night --address {head.address}`" in str(lost.value)


def test_who_cancels_a_job_that_was_started_again_hears_of_the_one_at_work() -> None:
    states = {"serve-1": "FAILED", "serve-1-2": "FAILED", "serve-1-3": "RUNNING", "serve-12": "RUNNING"}
    with listening(Head(states)) as head:
        done = radet("jobs", "cancel", "serve-1", "--address", head.address)
        command = f"radet jobs cancel serve-1-3 --address {head.address}"
        assert done.stderr == f"serve-1: had ended already; serve-1-3 is at work: `{command}`\n"
        assert radet(*command.split()[1:]).stderr == "serve-1-3: stopping\n"


def test_an_address_is_shown_without_its_password(tmp_path: Path) -> None:
    job = str(write(tmp_path, SCORE))
    with listening(Head({})) as head:
        address = head.address.replace("//", "//me:hunter2@")
        done = radet("jobs", "logs", "x", "--address", address)
        assert f"{head.address} has no job 'x'" in done.stderr
    gone = radet("submit", job, "--address", address)
    assert f"no Ray dashboard at {head.address}: " in gone.stderr
    dry = radet("submit", job, "--address", address, "--dry-run")
    assert f'"address": "{head.address}"' in dry.stdout
    assert "hunter2" not in done.stderr + gone.stderr + dry.stdout


@pytest.mark.parametrize("address", ["auto", "head:8265", "http://", "http://["])
def test_what_is_no_dashboards_address_is_one_line(address: str) -> None:
    done = radet("jobs", "status", "--address", address)
    assert done.returncode == 2
    assert done.stderr == f"radet: --address is the head's dashboard, http://HEAD:8265, not {address!r}\n"


def test_a_head_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = radet("submit", str(write(tmp_path, SCORE)), "--address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "no Ray dashboard at http://127.0.0.1:9" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", None, 1),
        ("FAILED", -9, 1),
        ("FAILED", 256, 1),
        ("STOPPED", 0, 1),
    ],
)
def test_the_exit_code_is_the_jobs_own_where_it_has_one(status: str, code: int | None, expected: int) -> None:
    assert client.exit_code(SimpleNamespace(status=status, driver_exit_code=code)) == expected


def test_a_log_that_is_streamed_again_is_shown_once() -> None:
    shown: list[str] = []
    log = _Log(shown.append)
    for stream in (["a", "bc"], [], ["abcd"], ["ab", "cdef", "g"]):
        log.rewind()
        for text in stream:
            log.take(text)
    assert "".join(shown) == "abcdefg"
