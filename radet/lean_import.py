"""Importing libraries of models without torch's compiler, which they bring in and scoring never uses.

torchvision imports torch._dynamo for one check inside one operator, timm marks a few functions as not to be compiled.
The compiler and sympy behind it cost 4 to 5 of the 7 seconds of `import timm`, and 140 MB, in every scoring process.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_UTILS = f"{_COMPILER}.utils"


class _Absent(ModuleType):
    """Stands where the compiler would; whoever asks it for more than it knows gets the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Imports in here do without torch._dynamo; afterwards it is imported by whoever needs it, as always."""
    if _COMPILER in sys.modules:
        yield
        return
    compiler, utils = _Absent(_COMPILER), _Absent(_UTILS)
    compiler.__path__ = []
    vars(compiler).update(utils=utils, disable=_as_it_is)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    sys.modules |= {_COMPILER: compiler, _UTILS: utils}
    try:
        yield
    finally:
        _remove()


def _as_it_is(fn: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Any:  # noqa: ARG001
    """torch._dynamo.disable, for functions that nobody compiles; also as a decorator with arguments."""
    return (lambda decorated: decorated) if fn is None else fn


def _is_compile_supported(device_type: str) -> bool:
    """torch._dynamo.utils.is_compile_supported, of the real one: torchvision asks when an operator is called."""
    return bool(_real(_UTILS).is_compile_supported(device_type))


def _real(name: str) -> ModuleType:
    _remove()
    return importlib.import_module(name)


def _remove() -> None:
    for name in (_UTILS, _COMPILER):
        if isinstance(sys.modules.get(name), _Absent):
            del sys.modules[name]
