import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest
from botocore.stub import Stubber

import pipelines.s3
from pipelines import lease as lease_module
from pipelines.lease import NAME, Lease, held
from pipelines.storage import open_folder
from radet.errors import ConfigError, FetchError

from .s3_proxy import Proxy, Request, proxy
from .s3_server import S3Server

HOLD = """
    import sys, time
    from pipelines.lease import Lease
    from pipelines.storage import open_folder
    with Lease(open_folder(sys.argv[1])) as lease:
        print(lease.id, flush=True)
        time.sleep(60)
"""
ELSEWHERE = b'{"host": "elsewhere", "pid": 1, "lease": "theirs"}'


def hold(url: str) -> tuple["subprocess.Popen[str]", str]:
    """A process that holds a lease, and its id."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLD), url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lease = process.stdout.readline().strip()
    assert len(lease) == 32
    return process, lease


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def await_lost(lease: Lease) -> None:
    deadline = time.monotonic() + 10
    while not lease.lost:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def between(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    pipelines.s3.client()  # this process's own goes straight to the server, those of leases through the proxy
    with proxy(s3.endpoint) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        yield made


def test_the_second_writer_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    other, _ = hold(str(tmp_path))
    try:
        with (
            pytest.raises(ConfigError, match=f"another run is writing.*{other.pid}"),
            Lease(open_folder(str(tmp_path))),
        ):
            pass
    finally:
        end(other)
    with Lease(open_folder(str(tmp_path))):
        pass


@pytest.mark.s3
def test_on_s3_a_living_writer_is_recognised_by_its_renewals(s3: S3Server) -> None:
    url = s3.url("lease-living")
    other, _ = hold(url)
    try:
        begun = time.monotonic()
        with pytest.raises(ConfigError, match="another run is writing"), Lease(open_folder(url)):
            pass
        assert time.monotonic() - begun < lease_module.EXPIRY_S
    finally:
        end(other)
    begun = time.monotonic()
    with Lease(open_folder(url)):  # killed on this machine: no need to wait for the lease to expire
        assert time.monotonic() - begun < lease_module.EXPIRY_S


@pytest.mark.s3
def test_on_s3_a_writer_of_another_machine_is_dead_when_it_stops_renewing(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "EXPIRY_S", 2.0)
    folder = open_folder(s3.url("lease-dead"))
    folder.write(NAME, ELSEWHERE)
    begun = time.monotonic()
    with Lease(folder) as lease:
        assert time.monotonic() - begun >= 2.0
        assert not lease.lost
    assert list(folder.list(NAME)) == []


@pytest.mark.s3
def test_on_s3_a_writer_learns_that_it_was_taken_over(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    folder = open_folder(s3.url("lease-lost"))
    with Lease(folder) as lease:
        folder.write(NAME, ELSEWHERE)
        await_lost(lease)
        assert lease.taken
    assert folder.read(NAME) == ELSEWHERE  # the new holder's lock is left alone
    folder.delete([NAME])
    with Lease(folder) as lease:
        folder.delete([NAME])  # as by a holder that has ended already
        await_lost(lease)


@pytest.mark.s3
def test_a_lock_that_is_gone_is_a_failed_condition_in_the_words_of_aws_too(s3: S3Server) -> None:
    client = pipelines.s3.new_client()
    with Stubber(client) as stubbed:
        stubbed.add_client_error("put_object", "NoSuchKey", http_status_code=404)
        with pytest.raises(pipelines.s3.PreconditionError):
            pipelines.s3.put(s3.url("gone"), b"", only_if_etag="1", by=client)
        stubbed.add_client_error("put_object", "NoSuchBucket", http_status_code=404)
        with pytest.raises(FetchError, match="NoSuchBucket"):
            pipelines.s3.put(s3.url("gone"), b"", only_if_absent=True, by=client)


@pytest.mark.s3
def test_on_s3_a_lost_answer_is_not_a_lost_lease(s3: S3Server, between: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write has happened, its answer is cut off: the client's own retry then meets a failed condition."""
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    folder = open_folder(s3.url("lease-cut"))
    faults = itertools.cycle(["cut", ""])
    between.faults = lambda request: next(faults) if request.method == "PUT" else ""
    with Lease(folder) as lease:
        deadline = time.monotonic() + 60
        while between.count("PUT", NAME) < 8:
            assert time.monotonic() < deadline
            assert not lease.lost
            time.sleep(0.1)
    assert between.faults_met()["cut"] >= 4
    assert list(folder.list(NAME)) == []


@pytest.mark.s3
def test_on_s3_a_lease_counts_from_a_write_of_known_time(s3: S3Server, between: Proxy) -> None:
    """The first answer is lost, and the client gives up: when it asks again, it finds a lock that may be old."""
    faults = iter(["cut", "503"])
    between.faults = lambda request: next(faults, "") if request.method == "PUT" else ""
    with Lease(open_folder(s3.url("lease-old"))) as lease:
        assert not lease.lost
        # Written, not answered; refused, found, written again.
        assert between.count("PUT", NAME) == 4


@pytest.mark.s3
def test_on_s3_a_writer_that_waits_goes_on_when_the_first_ends(s3: S3Server) -> None:
    url = s3.url("lease-ends")
    first = Lease(open_folder(url))
    first.__enter__()
    Timer(1.0, first.__exit__, (None, None, None)).start()
    begun = time.monotonic()
    with Lease(open_folder(url)) as second:
        assert time.monotonic() - begun < lease_module.EXPIRY_S
        assert not second.lost


@pytest.mark.s3
@pytest.mark.parametrize("request_", ["GET 1", "GET 2", "PUT 2"])
def test_on_s3_the_first_may_end_between_any_two_requests(
    s3: S3Server, between: Proxy, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    monkeypatch.setattr(lease_module, "EXPIRY_S", 1.0)
    folder = open_folder(s3.url("lease-ends-between"))
    folder.write(NAME, ELSEWHERE)

    def ends(request: Request) -> str:
        if f"{request.method} {between.count(request.method, NAME) + 1}" == request_:
            folder.delete([NAME])
        return ""

    between.faults = ends
    with Lease(folder) as lease:
        assert json.loads(folder.read(NAME))["lease"] == lease.id
    assert between.count("PUT", NAME) >= 2


@pytest.mark.s3
def test_on_s3_a_process_id_says_nothing_of_another_machine_or_container(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(s3.url("lease-pids"))
    other, _ = hold(folder.url)
    end(other)
    left = json.loads(folder.read(NAME))

    def waited(changed: dict[str, Any]) -> bool:
        folder.write(NAME, json.dumps(left | changed).encode())
        begun = time.monotonic()
        with Lease(folder):
            return time.monotonic() - begun >= lease_module.EXPIRY_S

    assert not waited({})
    assert not waited({"pid": os.getpid()})  # the dead one's id, given to another process
    monkeypatch.setattr(lease_module, "EXPIRY_S", 1.0)
    for name in ("host", "boot", "namespace"):
        assert waited({name: "another"})
    del left["boot"]  # as where the system does not tell
    assert waited({})


@pytest.mark.s3
def test_on_s3_one_stalled_renewal_does_not_end_a_lease(
    s3: S3Server, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    between.faults = lambda request: "stall" if between.count("PUT", NAME) == 1 else ""
    with Lease(open_folder(s3.url("lease-stalled"))) as lease:
        begun = time.monotonic()
        while between.count("PUT", NAME) < 4:
            assert time.monotonic() - begun < lease_module.EXPIRY_S * 0.8
            assert not lease.lost
            time.sleep(0.1)
    assert between.faults_met() == {"stall": 1}


@pytest.mark.s3
def test_on_s3_a_writer_without_answers_stops_before_another_takes_over(
    s3: S3Server, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    monkeypatch.setattr(lease_module, "EXPIRY_S", 2.0)
    folder = open_folder(s3.url("lease-cut-off"))
    with Lease(folder) as first:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        between.faults = lambda _: "stall"
        with Lease(folder) as second:
            assert first.lost
            assert not second.lost
            between.faults = None


@pytest.mark.s3
def test_on_s3_a_writer_goes_on_after_an_outage_in_which_nobody_took_over(
    s3: S3Server, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    monkeypatch.setattr(lease_module, "EXPIRY_S", 2.0)
    folder = open_folder(s3.url("lease-outage"))
    with Lease(folder) as lease:
        between.faults = lambda _: "503"
        await_lost(lease)
        assert not lease.taken
        between.faults = None
        deadline = time.monotonic() + 10
        while lease.lost:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert list(folder.list(NAME)) == []


@pytest.mark.s3
@pytest.mark.parametrize("place", ["local", "s3"])
def test_any_process_can_ask_whether_a_lease_is_held(s3: S3Server, tmp_path: Path, place: str) -> None:
    folder = open_folder(str(tmp_path) if place == "local" else s3.url("lease-asked"))
    assert not held(folder, "nobody")
    other, theirs = hold(folder.url)
    try:
        assert held(folder, theirs)
        assert not held(folder, "another")
        assert json.loads(folder.read(NAME))["pid"] == other.pid
    finally:
        end(other)
    with Lease(folder) as lease:
        assert held(folder, lease.id)
        assert not held(folder, theirs)


@pytest.mark.s3
def test_on_s3_who_asks_may_rely_on_the_answer(s3: S3Server) -> None:
    """The holder is silent, another waits for its lease to expire: the questions renew it."""
    folder = open_folder(s3.url("lease-relied"))
    folder.write(NAME, ELSEWHERE)
    refused = Event()

    def ask() -> None:
        while not refused.wait(0.2):  # again and again: the other one may begin to look late
            held(folder, "theirs")

    asking = Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(ConfigError, match="elsewhere, process 1"), Lease(folder):
            pass
    finally:
        refused.set()
        asking.join()


@pytest.mark.s3
def test_on_s3_a_question_leaves_the_lease_with_its_holder(
    s3: S3Server, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    folder = open_folder(s3.url("lease-kept"))
    with Lease(folder) as lease:
        for _ in range(5):
            assert held(folder, lease.id)
            time.sleep(0.2)
            assert not lease.lost
    assert list(folder.list(NAME)) == []
