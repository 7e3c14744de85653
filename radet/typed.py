"""Frozen dataclasses from JSON or YAML, strictly: what a file says wrongly is an error that names the key."""

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from radet.errors import ConfigError, RadetError

_T = TypeVar("_T")
_THE_FILE = "the file"


def from_dict(cls: type[_T], data: object, *, complete: bool = True, where: str = _THE_FILE) -> _T:
    """`data` as the dataclass `cls`: every key known, every type as annotated.

    `complete` wants every key; otherwise a key with a default may be left out.
    Raises ValueError that names the key and what to write there, and what `cls` itself raises.
    """
    assert is_dataclass(cls)
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be an object, not {data!r}")
    known = {field.name for field in fields(cls)}
    if unknown := sorted(map(str, data.keys() - known)):
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}; known are {sorted(known)}")
    optional = {f.name for f in fields(cls) if f.default is not MISSING or f.default_factory is not MISSING}
    if missing := sorted(known - data.keys() - (set() if complete else optional)):
        raise ValueError(f"{where} lacks the key {missing[0]!r}: add it")
    hints = get_type_hints(cls)
    prefix = "" if where == _THE_FILE else f"{where}."
    values = {key: _value(hints[key], value, prefix + key, complete) for key, value in data.items()}
    return cast(_T, cls(**values))


def from_yaml(cls: type[_T], file: str | Path, change: Callable[[Any], None] | None = None) -> _T:
    """The dataclass `cls` from a YAML file; keys with a default may be left out. `change` edits what was read first.

    Raises ConfigError that names the file, the key and what to write there.
    """
    try:
        data = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {error}") from None
    try:
        if change is not None:
            change(data)
        return from_dict(cls, data, complete=False)
    except RadetError as error:
        raise ConfigError(f"{file}: {error.message}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None


def _value(hint: Any, value: object, where: str, complete: bool) -> object:
    if is_dataclass(hint):
        return from_dict(cast(type[object], hint), value, complete=complete, where=where)
    arguments, origin = get_args(hint), get_origin(hint)
    if origin in {Union, types.UnionType}:
        return None if value is None else _value(arguments[0], value, where, complete)
    if (
        origin is tuple
        and isinstance(value, list | tuple)
        and (arguments[-1] is Ellipsis or len(value) == len(arguments))
    ):
        return tuple(_value(arguments[0], item, f"{where}[{index}]", complete) for index, item in enumerate(value))
    if origin is Literal and value in arguments:
        return value
    if hint is float and type(value) in {int, float}:
        return float(cast(float, value))
    if isinstance(hint, type) and type(value) is hint:  # type(): True is an int to isinstance
        return value
    wanted = " | ".join(map(repr, arguments)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise ValueError(f"{where} must be {wanted}, not {value!r}")
