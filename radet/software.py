"""Which releases compute here: a run says so, since another torch rounds otherwise."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("radet", "ray", "torch", "pyarrow", "simplejpeg", "pillow", "timm", "open_clip_torch", "transformers")


def software() -> dict[str, str]:
    """Versions of Python and of the packages that a score or its row may depend on, where installed; imports none."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    found["python"] = platform.python_version()
    return found
