"""API keys and rate limits."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.access import ANYONE, Doorkeeper
from pipelines.failures import RequestError, retry_after
from radet.errors import ConfigError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Callable[..., Doorkeeper]:
    def make(keys: str | None = None, file: Path | str | None = None, fronts: int = 1) -> Doorkeeper:
        for name, value in {"RADET_API_KEYS": keys, "RADET_API_KEYS_FILE": file}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, str(value))
        return Doorkeeper(fronts=fronts, clock=clock)

    return make


def test_without_keys_anyone_may_ask(door: Callable[..., Doorkeeper]) -> None:
    open_door = door()
    assert not open_door.closed
    assert open_door.admit(None) is ANYONE
    open_door.spend(ANYONE, 10**6, 1.0)


@pytest.mark.parametrize("presented", [None, "", "wrong", sha("first"), "First", "first "])
def test_a_wrong_key_is_refused(door: Callable[..., Doorkeeper], presented: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        door(f"a:{sha('first')}").admit(presented)
    assert caught.value.code == "unauthorized"


def test_keys_from_environment_and_file(door: Callable[..., Doorkeeper], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# customers\n\nb:{sha('second')}:30  # thirty a minute\nc:{sha('third').upper()}\n")
    both = door(f"a:{sha('first')},d:{sha('fourth')}:5", file)
    assert [both.admit(key).name for key in ("first", "second", "third", "fourth")] == ["a", "b", "c", "d"]
    assert (both.admit("second").rate, both.admit("fourth").rate, both.admit("third").rate) == (30.0, 5.0, None)


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    door: Callable[..., Doorkeeper], tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a:{sha('first')}\n")
    one = door(file=file)
    file.write_text(f"b:{sha('second')}\n")
    os.utime(file, ns=(1, 1))
    clock.now += 5
    assert one.admit("second").name == "b"
    with pytest.raises(RequestError):
        one.admit("first")
    for text in ("half a li", "# being written\n", "", f"ab:{sha('')}\n"):
        file.write_text(text)
        os.utime(file, ns=(1, 1))  # as where clocks are coarse: another size will do
        for _ in range(3):
            clock.now += 5
            assert one.admit("second").name == "b"
    assert [str(file) in told for told in caplog.messages] == [True] * 3, "each trouble once"
    file.unlink()
    clock.now += 5
    assert one.admit("second").name == "b"
    file.write_text(f"c:{sha('third')}\n")
    clock.now += 5
    assert one.admit("third").name == "c"
    with pytest.raises(RequestError):
        one.admit("second")


@pytest.mark.parametrize("keys", ["plain-key", "a:123", f"a b:{sha('x')}", f"a:{sha('x')}:many"])
def test_a_list_that_cannot_be_read_opens_no_door_and_is_not_shown(
    door: Callable[..., Doorkeeper], keys: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        door(keys)
    assert keys not in str(caught.value)
    file = tmp_path / "keys"
    with pytest.raises(ConfigError):
        door(file=file)
    file.write_text("# empty\n")
    with pytest.raises(ConfigError):
        door(file=file)


@pytest.mark.parametrize("keys", ["", " \n", " ,\n", "# keys come later"])
def test_a_variable_that_is_set_and_holds_no_key_opens_no_door(
    door: Callable[..., Doorkeeper], keys: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="RADET_API_KEYS holds no key"):
        door(keys)
    (tmp_path / "keys").write_text(f"a:{sha('first')}\n")
    with pytest.raises(ConfigError, match="RADET_API_KEYS holds no key"):
        door(keys, tmp_path / "keys")
    with pytest.raises(ConfigError, match="names no file"):
        door(file="")


def test_the_hash_of_nothing_is_no_key(door: Callable[..., Doorkeeper], tmp_path: Path) -> None:
    nothing = f"a:{sha('first')},b:{sha('').upper()}"
    with pytest.raises(ConfigError, match="entry 2: that is the hash of nothing"):
        door(nothing)
    (tmp_path / "keys").write_text(nothing)
    with pytest.raises(ConfigError, match="the hash of nothing"):
        door(file=tmp_path / "keys")


@pytest.mark.parametrize("rate", ["0", "0.0", "9" * 400])
def test_a_rate_that_is_none_is_refused(door: Callable[..., Doorkeeper], rate: str) -> None:
    with pytest.raises(ConfigError, match="IMAGES_PER_MINUTE"):
        door(f"a:{sha('first')}:{rate}")


def test_a_minutes_worth_may_come_at_once_then_it_drips(door: Callable[..., Doorkeeper], clock: Clock) -> None:
    one = door(f"a:{sha('first')}:60,b:{sha('second')}")
    caller = one.admit("first")
    for _ in range(60):
        one.spend(caller, 1, None)
    with pytest.raises(RequestError) as caught:
        one.spend(caller, 1, None)
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after_s == pytest.approx(1.0)
    clock.now += 1
    one.spend(caller, 1, None)
    clock.now += 3600  # of which no more than a minute counts
    for _ in range(60):
        one.spend(caller, 1, None)
    with pytest.raises(RequestError):
        one.spend(caller, 1, None)
    other = one.admit("second")
    one.spend(other, 1000, None)  # a key without a rate of its own takes the settings'
    one.spend(other, 2, 2.0)
    with pytest.raises(RequestError):
        one.spend(other, 1, 2.0)


def test_a_batch_counts_its_pictures_and_one_that_is_too_large_leaves_a_debt(
    door: Callable[..., Doorkeeper], clock: Clock
) -> None:
    one = door(f"a:{sha('first')}:60")
    caller = one.admit("first")
    one.spend(caller, 100, None)
    clock.now += 30
    with pytest.raises(RequestError):
        one.spend(caller, 1, None)
    clock.now += 12
    one.spend(caller, 1, None)


def test_several_fronts_share_a_limit(door: Callable[..., Doorkeeper]) -> None:
    one = door(f"a:{sha('first')}:60", fronts=3)
    caller = one.admit("first")
    for _ in range(20):
        one.spend(caller, 1, None)
    with pytest.raises(RequestError):
        one.spend(caller, 1, None)


@pytest.mark.parametrize(("rate", "fronts"), [("0.5", 1), ("4", 16)])
def test_a_rate_below_one_a_process_is_kept(
    door: Callable[..., Doorkeeper], clock: Clock, rate: str, fronts: int
) -> None:
    """Each process lets one pass at once, whatever its part of the rate is."""
    processes = [door(f"a:{sha('first')}:{rate}", fronts=fronts) for _ in range(fronts)]
    wait_s = 60 * fronts / float(rate)  # of a process, from picture to picture
    begun, passed = clock.now, 0
    for step in range(310):
        clock.now = begun + step * wait_s / 100
        for one in processes:
            with suppress(RequestError):
                one.spend(one.admit("first"), 1, None)
                passed += 1
    assert passed == 4 * fronts
    with pytest.raises(RequestError) as caught:
        processes[0].spend(processes[0].admit("first"), 1, None)
    assert caught.value.retry_after_s == pytest.approx(wait_s, rel=0.1)


@pytest.mark.parametrize("seconds", [0.0, 0.2, 1.0, 1.5, 2.0, 2.4, 59.6])
def test_retry_after_is_no_shorter_than_the_wait(seconds: float) -> None:
    told = retry_after(RequestError("rate_limited", "", retry_after_s=seconds))
    assert told is not None
    assert max(1, seconds) <= told <= seconds + 1
    assert retry_after(RequestError("bad_request", "")) is None
