"""API keys and rate limits."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.access import ANYONE, Doorkeeper
from pipelines.failures import RequestError
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
    def make(keys: str = "", file: Path | None = None, fronts: int = 1) -> Doorkeeper:
        monkeypatch.setenv("RADET_API_KEYS", keys)
        monkeypatch.setenv("RADET_API_KEYS_FILE", "" if file is None else str(file))
        return Doorkeeper(fronts=fronts, clock=clock)

    return make


def test_without_keys_anyone_may_ask(door: Callable[..., Doorkeeper]) -> None:
    open_door = door()
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
    door: Callable[..., Doorkeeper], tmp_path: Path, clock: Clock
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
    file.write_text("half a li")
    clock.now += 5
    assert one.admit("second").name == "b"
    file.write_text("# nobody any more\n")
    clock.now += 5
    with pytest.raises(RequestError):
        one.admit("second")
    file.unlink()
    clock.now += 5
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
