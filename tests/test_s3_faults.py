"""Answers that are refused or break off are asked for again; those that always do are the documented error."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipelines.s3
from radet.errors import FetchError

from .s3_proxy import Proxy, proxy
from .s3_server import S3Server

pytestmark = pytest.mark.s3


@pytest.fixture
def between(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy(s3.endpoint) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        pipelines.s3.client.cache_clear()
        yield made
        pipelines.s3.client.cache_clear()


def test_a_body_that_breaks_off_is_read_again(s3: S3Server, between: Proxy, tmp_path: Path) -> None:
    url, data = s3.url(f"faults-{os.getpid()}/a"), os.urandom(100_000)
    pipelines.s3.put(url, data)
    faults = itertools.cycle([*6 * ["cut"], "503", ""])
    between.faults = lambda _: next(faults)
    assert pipelines.s3.get(url) == data
    pipelines.s3.download(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data


def test_one_that_always_breaks_off_may_pass_later(s3: S3Server, between: Proxy) -> None:
    url = s3.url(f"faults-{os.getpid()}/b")
    pipelines.s3.put(url, b"12345678")
    between.faults = lambda _: "cut"
    with pytest.raises(FetchError) as error:
        pipelines.s3.get(url)
    assert error.value.code == "unreachable"
    assert error.value.transient
