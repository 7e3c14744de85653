"""URL input over HTTP: what leads inside is refused, however it is written; what is public passes."""

import threading
from collections.abc import Iterator

import pytest

from pipelines.http import HttpPolicy, HttpReader
from radet.errors import FetchError

from .bad_inputs import encoded, photo
from .client import ask
from .image_server import ImageServer
from .service import Service, service

PUBLIC = "93.184.215.14"

#: Names that the resolver of these tests knows.
HOSTS = {
    "public.example": [PUBLIC],
    "private.example": ["10.1.2.3"],
    "loopback.example": ["127.0.0.1"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "half.example": [PUBLIC, "192.168.0.9"],
    "link.example": ["fe80::1"],
    "unique.example": ["fd00::1"],
    "metadata.google.internal": ["169.254.169.254"],
    "localhost": ["127.0.0.1", "::1"],
}

REFUSED = [
    "http://127.0.0.1/a.jpg",
    "http://127.0.0.1:80/a.jpg",
    "http://127.1/a.jpg",
    "http://2130706433/a.jpg",
    "http://0x7f000001/a.jpg",
    "http://0177.0.0.1/a.jpg",
    "http://0/a.jpg",
    "http://0.0.0.0/a.jpg",
    "http://10.0.0.1/a.jpg",
    "http://172.16.0.1/a.jpg",
    "http://172.31.255.255/a.jpg",
    "http://192.168.1.1/a.jpg",
    "http://100.64.0.1/a.jpg",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://168.63.129.16/metadata",
    "http://192.0.2.1/a.jpg",
    "http://198.18.0.1/a.jpg",
    "http://224.0.0.1/a.jpg",
    "http://255.255.255.255/a.jpg",
    "http://[::1]/a.jpg",
    "http://[::]/a.jpg",
    "http://[::ffff:127.0.0.1]/a.jpg",
    "http://[::ffff:a9fe:a9fe]/a.jpg",
    "http://[::127.0.0.1]/a.jpg",
    "http://[64:ff9b::7f00:1]/a.jpg",
    "http://[2002:7f00:1::]/a.jpg",
    "http://[fd00::1]/a.jpg",
    "http://[fe80::1]/a.jpg",
    "http://[fe80::1%25eth0]/a.jpg",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://localhost/a.jpg",
    "http://LOCALHOST./a.jpg",
    "http://private.example/a.jpg",
    "http://loopback.example/a.jpg",
    "http://mapped.example/a.jpg",
    "http://half.example/a.jpg",
    "http://link.example/a.jpg",
    "http://unique.example/a.jpg",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://public.example:22/a.jpg",
    "http://public.example:8080/a.jpg",
    "https://public.example:6443/a.jpg",
    "http://user@public.example/a.jpg",
    "http://public.example@127.0.0.1/a.jpg",
    "http://user:word@public.example/a.jpg",
    "http://127.0.0.1\\@public.example/a.jpg",
    "file:///etc/passwd",
    "/etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "ftp://public.example/a.jpg",
    "s3://bucket/key",
    "data:image/png;base64,AAAA",
    "dict://127.0.0.1:11211/stats",
    "jar:http://public.example!/a",
    "http://",
    "http:///a.jpg",
    "//127.0.0.1/a.jpg",
    "http://public.example\r\nHost: inside/",
    "http://①②⑦.0.0.1/a.jpg",
]
assert len(REFUSED) >= 40


def resolve(host: str, port: int) -> list[str]:
    if host not in HOSTS:
        raise OSError("no such name")
    return HOSTS[host]


@pytest.fixture(scope="module")
def here() -> Iterator[Service]:
    policy = HttpPolicy(total_timeout_s=3.0, connect_timeout_s=0.5, attempts=1)
    with service(allow_url=True, reader=HttpReader(policy, resolve)) as one:
        yield one


@pytest.mark.parametrize("url", REFUSED)
def test_what_leads_inside_is_refused(here: Service, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*args: object, **options: object) -> None:
        raise AssertionError(f"a connection was opened for {url}")

    monkeypatch.setattr("pipelines.connections.Connections.get", no_connection)
    answer = ask(f"{here.url}/v1/score", body={"url": url})
    assert (answer.status, answer.code) == (400, "blocked_address"), answer.body
    assert "10.1.2.3" not in answer.body.decode()


def test_a_public_host_passes_the_gate_and_the_connection_goes_to_the_checked_address(
    here: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Refusing:
        def __enter__(self) -> None:
            raise OSError("no network here")

        def __exit__(self, *_: object) -> None: ...

    def get(self: object, hop: object, address: str, *_: object) -> Refusing:
        seen.append(address)
        return Refusing()

    monkeypatch.setattr("pipelines.connections.Connections.get", get)
    for url in ("http://public.example/a.jpg", "http://public.example#@127.0.0.1:99/", f"https://{PUBLIC}/a.jpg"):
        answer = ask(f"{here.url}/v1/score", body={"url": url})
        assert (answer.status, answer.code) == (422, "unreachable")
    assert seen == [PUBLIC] * 3


def test_a_name_that_changes_after_it_was_checked_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: public when it is checked, loopback ever after."""
    answers = iter([[PUBLIC]])
    connected = []

    def rebinding(host: str, port: int) -> list[str]:
        return next(answers, ["127.0.0.1"])

    def get(self: object, hop: object, address: str, *_: object) -> None:
        connected.append(address)
        raise OSError("no network here")

    monkeypatch.setattr("pipelines.connections.Connections.get", get)
    reader = HttpReader(HttpPolicy(attempts=1, total_timeout_s=3.0), rebinding)
    with service(allow_url=True, reader=reader) as one:
        codes = [ask(f"{one.url}/v1/score", body={"url": "http://rebind.example/a.jpg"}).code for _ in range(2)]
    assert codes == ["unreachable", "blocked_address"]
    assert connected == [PUBLIC]


def test_a_trusted_server_is_read_and_its_redirects_are_checked(web: ImageServer) -> None:
    with service(allow_url=True) as one:
        url = f"http://{web.host}/ok.jpg"
        found = ask(f"{one.url}/v1/score", body={"url": url, "external_id": "x"})
        assert (found.status, found.json()["uri"], found.json()["id"]) == (200, url, "x")
        assert found.json()["timings"]["fetch_ms"] > 0
        missing = ask(f"{one.url}/v1/score", body={"url": f"http://{web.host}/gone.jpg"})
        assert (missing.status, missing.code) == (422, "not_found")
        why = ask(f"{one.url}/v1/explain", body={"url": url}).json()
        assert (why["score"]["uri"], why["score"]["id"], why["external_id"]) == (url, url, None)
        assert why["timings"]["fetch_ms"] > 0
        why = ask(f"{one.url}/v1/explain", body={"url": url, "external_id": "x"}).json()
        assert (why["score"]["uri"], why["score"]["id"], why["external_id"]) == (url, "x", "x")
        batch = ask(f"{one.url}/v1/score:batch", body={"items": [{"url": url}, {"url": "http://10.0.0.1/a.jpg"}]})
        assert [item["error"] and item["error"]["code"] for item in batch.json()["items"]] == [None, "blocked_address"]


def test_urls_are_off_unless_allowed(web: ImageServer) -> None:
    with service() as one:
        answer = ask(f"{one.url}/v1/score", body={"url": f"http://{web.host}/ok.jpg"})
    assert (answer.status, answer.code) == (400, "blocked_address")


def test_a_slow_url_holds_no_other_picture_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Slow(HttpReader):
        def read(self, url: str) -> bytes:
            release.wait(20)
            raise FetchError("timeout", "late")

    with service(allow_url=True, reader=Slow(HttpPolicy())) as one:
        threads = [
            threading.Thread(target=ask, args=(f"{one.url}/v1/score",), kwargs={"body": {"url": "http://a.example/"}})
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        assert ask(f"{one.url}/v1/score", body=encoded(photo(), "JPEG")).status == 200
        release.set()
        for thread in threads:
            thread.join(20)
