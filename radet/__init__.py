"""radet: is this image generated? By robustness asymmetry (RA-Det, arXiv 2603.01544).

    from radet import Detector
    scores = Detector.from_pretrained("radet-lite").score(["holiday.jpg"])

`import radet` costs no torch: drivers, submitters and `--help` import this package too. `Detector` and `Evidence`
arrive at first use (PEP 562).
"""

from typing import TYPE_CHECKING, Any

from radet.errors import ConfigError, FetchError, ImageError, ModelError, RadetError
from radet.score import Score

if TYPE_CHECKING:
    from radet.detector import Detector
    from radet.evidence import Evidence

__all__ = [
    "ConfigError",
    "Detector",
    "Evidence",
    "FetchError",
    "ImageError",
    "ModelError",
    "RadetError",
    "Score",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in {"Detector", "Evidence"}:
        raise AttributeError(f"module 'radet' has no attribute {name!r}")
    from radet import detector  # noqa: PLC0415  (the line that brings torch in)

    return getattr(detector, name)
