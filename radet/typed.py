"""Frozen dataclasses from JSON or YAML, strictly: what a file says wrongly is an error that names the key."""

import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from radet.errors import ConfigError, RadetError

_T = TypeVar("_T")
_THE_FILE = "the file"
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text, in quotes if need be"}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that is there twice, of which YAML's own would take the last without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1} has the key {key.value!r} a second time")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# 1e-4 is a number to everyone but YAML 1.1, which wants 1.0e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def from_dict(cls: type[_T], data: object, *, complete: bool = True, where: str = _THE_FILE) -> _T:
    """`data` as the dataclass `cls`: every key known, every type as annotated.

    `complete` wants every key; otherwise a key with a default may be left out.
    Raises ValueError that names the key and what to write there, and what `cls` itself raises.
    """
    assert is_dataclass(cls)
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be an object, not {_shown(data)}")
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
        data = yaml.load(Path(file).read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date in month 13
        raise ConfigError(f"{file} cannot be read as YAML: {_in_a_line(error)}") from None
    try:
        if change is not None:
            change(data)
        return from_dict(cls, data, complete=False)
    except RadetError as error:
        raise ConfigError(f"{file}: {error.message}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None


def _value(hint: Any, value: object, where: str, complete: bool) -> object:
    if get_origin(hint) in {Union, types.UnionType}:
        members = get_args(hint)
        if value is None and types.NoneType in members:
            return None
        hint = next((one for one in members if _is_list(value) and get_origin(one) is tuple), members[0])
    if is_dataclass(hint):
        return from_dict(cast(type[object], hint), value, complete=complete, where=where)
    arguments, origin = get_args(hint), get_origin(hint)
    if origin is tuple and _is_list(value) and (arguments[-1] is Ellipsis or len(value) == len(arguments)):
        return tuple(_value(arguments[0], item, f"{where}[{index}]", complete) for index, item in enumerate(value))
    if origin is Literal and value in arguments:
        return value
    if hint is float and type(value) in {int, float}:
        if not abs(cast(float, value)) <= sys.float_info.max:
            raise ValueError(f"{where} must be a finite number")
        return float(cast(float, value))
    if isinstance(hint, type) and type(value) is hint:  # type(): True is an int to isinstance
        return value
    if origin is Literal:
        wanted = " or ".join(map(_shown, arguments))
    elif origin is tuple:
        wanted = "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}"
    else:
        wanted = _WORDS[hint]
    raise ValueError(f"{where} must be {wanted}, not {_shown(value)}")


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def _shown(value: object) -> str:
    """As a file writes it."""
    if isinstance(value, date):
        return str(value)  # in quotes it would be right
    return json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)


def _in_a_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return str(error)
