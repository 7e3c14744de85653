"""The gate: what is refused, what passes, and that one look-up decides."""

import ipaddress
import random
import threading
import time

import pytest

from pipelines.gate import Gate, is_public, resolve_host
from radet.errors import FetchError

PUBLIC = "93.184.216.34"

BLOCKED_ADDRESSES = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1
198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::169.254.169.254 64:ff9b::10.0.0.1 64:ff9b:1::8.8.8.8 100::1 2001::1
2001:0:7f00:1::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::1 2002:a9fe:a9fe::1 2002:808:808::1 3fff::1 5f00::1
fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2606:4700::1%eth0 fec0::1 ff02::1 4000::1 not-an-ip 127.1 0177.0.0.1
"""
PUBLIC_ADDRESSES = """
1.1.1.1 8.8.8.8 93.184.216.34 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0
192.167.255.255 198.17.255.255 198.20.0.0 223.255.255.255 168.63.129.17 2606:4700:4700::1111 2a00:1450:4001:81b::200e
2001:4860:4860::8888 64:ff9b::8.8.8.8
"""


@pytest.mark.parametrize("address", BLOCKED_ADDRESSES.split())
def test_no_name_leads_to_an_inside_address(address):
    assert not is_public(address)
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        with pytest.raises(FetchError) as caught:
            check("http://images.example/a.png", resolve=lambda host, port, answer=answer: answer)
        assert caught.value.code == "blocked_address"
        assert address not in str(caught.value)


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES.split())
def test_public_addresses_pass(address):
    assert is_public(address)
    assert check("https://images.example/a.png", resolve=lambda host, port: [address]).addresses == (address,)


def test_the_standard_library_finds_nothing_private_among_what_passes():
    rng = random.Random(0)
    sample = [ipaddress.IPv4Address(rng.getrandbits(32)) for _ in range(5000)]
    sample += [ipaddress.IPv6Address(0x2 << 124 | rng.getrandbits(125)) for _ in range(5000)]
    passed = [ip for ip in sample if is_public(str(ip))]
    assert len(passed) > 5000
    assert all(ip.is_global and not ip.is_multicast for ip in passed)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1./",
        "http://127.0.0.1../",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0X7F000001/",
        "http://0x7f.0.0.1/",
        "http://0x7f.1/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://0x/",
        "http://134744072/",
        "http://1.1.1.1.1/",
        "http://1.1.1.256/",
        "http://foo.1/",
        "http://foo.0x1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[2606:4700::1%25eth0]/",
        "http://[64:ff9b::127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://[fd00:ec2::254]/latest/meta-data",
        "http://[::1",
        "http://::1/",
        "http://169.254.169.254/latest/meta-data",
        "http://169.254.169.254:80/",
        "http://2852039166/",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        "http://①②⑦.0.0.1/",
        "http://127.0.0.%31/",
        "http://%31%32%37.0.0.1/",
        "http://exa mple.com/",
        "http://127.0.0.1\\@example.com/",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com:80@127.0.0.1/",
        "http://example.com:22/",
        "http://example.com:8080/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:99999999/",
        "http://example.com:-80/",
        "http://example.com:80:80/",
        "http://example.com:８０/",
        "http://example..com/",
        "http://.example.com/",
        "http://" + "a" * 64 + ".com/",
        "http://" + "a." * 127 + "com/",
        "http://example.com/" + "a" * 9000,
        "http://example.com/\r\nHost: inside",
        "http://example.com/\x00",
        "http://exam\tple.com/",
        "\thttp://example.com/",
        " http://example.com/",
        "http://\ud800.com/",
        "http://",
        "http:///etc/passwd",
        "http:/example.com/",
        "http:example.com",
        "//example.com/",
        "example.com",
        "",
        "file:///etc/passwd",
        "file://example.com/etc/passwd",
        "ftp://example.com/",
        "gopher://example.com:70/_",
        "s3://bucket/key",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "unix:///var/run/docker.sock",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    ],
)
def test_refused_before_any_packet(url):
    """Every name would resolve to a public address here, so the URL's own spelling is what is refused."""
    with pytest.raises(FetchError) as caught:
        check(url)
    assert caught.value.code == "blocked_address"
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "port", "netloc", "target"),
    [
        ("http://example.com", "example.com", 80, "example.com", "/"),
        ("HTTPS://Example.COM:443/A/../b.png?q=1#f", "example.com", 443, "example.com", "/b.png?q=1"),
        ("http://example.com./a", "example.com", 80, "example.com", "/a"),
        ("http://example.com:443/a", "example.com", 443, "example.com:443", "/a"),
        ("https://my_bucket.s3.example.com/ä b.png", "my_bucket.s3.example.com", 443, None, "/%C3%A4%20b.png"),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, "xn--bcher-kva.example", "/"),
        ("https://straße.example/", "xn--strae-oqa.example", 443, "xn--strae-oqa.example", "/"),
        ("https://8.8.8.8/x", "8.8.8.8", 443, "8.8.8.8", "/x"),
        ("http://[2606:4700:4700::1111]:443/", "[2606:4700:4700::1111]", 443, "[2606:4700:4700::1111]:443", "/"),
        ("http://4chan.example/", "4chan.example", 80, "4chan.example", "/"),
        ("http://example.com/%7Euser?sig=a%2Fb%3D&x=%ff", "example.com", 80, None, "/%7Euser?sig=a%2Fb%3D&x=%FF"),
        ("http://example.com#@127.0.0.1:22/", "example.com", 80, None, "/"),
        ("http://example.com\\@127.0.0.1/", "example.com", 80, None, "/%5C@127.0.0.1/"),
        ("http://example.com/?url=http://127.0.0.1/@x", "example.com", 80, None, "/?url=http://127.0.0.1/@x"),
    ],
)
def test_ordinary_urls_pass(url, host, port, netloc, target):
    hop = check(url, resolve=lambda *_: [PUBLIC])
    assert (hop.host, hop.port, hop.target) == (host, port, target)
    assert hop.netloc == (netloc or host)


def test_trust_is_for_one_exact_host_and_port():
    trusted = frozenset({"images.internal:8080", "127.0.0.1:8081", "[::1]:8082"})

    def inside(host, port):
        return ["10.0.0.7"]

    assert check("http://images.internal:8080/x", inside, trusted).addresses == ("10.0.0.7",)
    assert check("http://IMAGES.internal.:8080/x", inside, trusted).addresses == ("10.0.0.7",)
    assert check("http://127.0.0.1:8081/x", inside, trusted).addresses == ("127.0.0.1",)
    assert check("http://[::1]:8082/x", inside, trusted).addresses == ("::1",)
    for url in [
        "http://images.internal/",
        "http://images.internal:8081/",
        "http://x.images.internal:8080/",
        "http://2130706433:8081/",
        "http://u:p@images.internal:8080/",
        "ftp://images.internal:8080/",
    ]:
        with pytest.raises(FetchError) as caught:
            check(url, inside, trusted)
        assert caught.value.code == "blocked_address"


def test_both_families_get_their_turn():
    answer = ["2606:4700::1", "2606:4700::2", "2606:4700::3", "1.1.1.1"]
    assert check("http://a.example/", lambda *_: answer).addresses == (answer[0], answer[3], answer[1], answer[2])


def test_a_name_that_does_not_resolve_is_unreachable():
    def fails(host, port):
        raise OSError("no such name")

    for resolve in (fails, lambda *_: []):
        with pytest.raises(FetchError) as caught:
            check("http://a.example/", resolve)
        assert caught.value.code == "unreachable"
        assert caught.value.transient


def test_a_hanging_look_up_ends_at_the_deadline():
    release = threading.Event()
    start = time.monotonic()
    with pytest.raises(FetchError) as caught:
        check("http://a.example/", lambda *_: [str(release.wait(30))], seconds=0.2)
    assert time.monotonic() - start < 2
    assert caught.value.code == "timeout"
    release.set()


def test_the_systems_resolver_knows_this_machine():
    assert set(resolve_host("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(FetchError) as caught:
        check("http://localhost/", resolve_host)
    assert caught.value.code == "blocked_address"


def check(url, resolve=lambda *_: [PUBLIC], trusted=frozenset(), seconds=10.0):
    return Gate(ports=frozenset({80, 443}), trusted=trusted, resolve=resolve).check(url, time.monotonic() + seconds)
