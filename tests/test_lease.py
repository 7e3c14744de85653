import itertools
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import pipelines.s3
from pipelines import lease as lease_module
from pipelines.lease import NAME, Lease
from pipelines.storage import S3Folder, open_folder
from radet.errors import ConfigError

from .conftest import S3Server
from .s3_proxy import proxy

HOLD = """
    import sys, time
    from pipelines.lease import Lease
    from pipelines.storage import open_folder
    with Lease(open_folder(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


def hold(url: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLD), url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_the_second_writer_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    other = hold(str(tmp_path))
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
    other = hold(url)
    try:
        begun = time.monotonic()
        with pytest.raises(ConfigError, match="another run is writing"), Lease(open_folder(url)):
            pass
        assert time.monotonic() - begun < lease_module.EXPIRY_S
    finally:
        end(other)
    with Lease(open_folder(url)):  # killed on this machine: no need to wait for the lease to expire
        pass


@pytest.mark.s3
def test_on_s3_a_writer_of_another_machine_is_dead_when_it_stops_renewing(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "EXPIRY_S", 2.0)
    folder = open_folder(s3.url("lease-dead"))
    folder.write(NAME, b'{"host": "elsewhere", "pid": 1}')
    begun = time.monotonic()
    with Lease(folder) as lease:
        assert time.monotonic() - begun >= 2.0
        assert not lease.lost
    assert list(folder.list(NAME)) == []


@pytest.mark.s3
def test_on_s3_a_writer_learns_that_it_was_taken_over(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    folder = open_folder(s3.url("lease-lost"))
    assert isinstance(folder, S3Folder)
    with Lease(folder) as lease:
        folder.write(NAME, b'{"host": "elsewhere", "pid": 1}')
        deadline = time.monotonic() + 10
        while not lease.lost and time.monotonic() < deadline:
            time.sleep(0.1)
        assert lease.lost
    assert folder.read(NAME) == b'{"host": "elsewhere", "pid": 1}'  # the new holder's lock is left alone


@pytest.mark.s3
def test_on_s3_a_lost_answer_is_not_a_lost_lease(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write has happened, its answer is cut off: the client's own retry then meets a failed condition."""
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    with proxy(s3.endpoint) as between, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        pipelines.s3.client.cache_clear()
        try:
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
        finally:
            pipelines.s3.client.cache_clear()
    assert list(folder.list(NAME)) == []
