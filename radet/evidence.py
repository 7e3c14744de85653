"""What a detector found in several pictures: the same fields as a Score, by columns. B pictures"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from radet.score import Verdict

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the detector found in B crops: the fields of a Score, float32 [B]; None where it does not look for that."""

    logit: Floats | None = None
    p_generated: Floats | None = None
    verdict: Sequence[Verdict] | None = None
    drift_cosine: Floats | None = None
    drift_l2: Floats | None = None
    drift_mahalanobis: Floats | None = None
    logit_semantic: Floats | None = None
    logit_discrepancy: Floats | None = None
    logit_lowlevel: Floats | None = None
    generator: Sequence[str | None] | None = None

    def row(self, index: int) -> dict[str, float | str | None]:
        """The evidence on one crop, by field name, as Python numbers."""
        found: dict[str, float | str | None] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            value = None if values is None else values[index]
            found[field.name] = float(value) if isinstance(value, np.floating) else value
        return found
