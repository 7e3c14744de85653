"""How well scores order generated pictures above real ones, exactly and with ties counted half.

Every figure takes weights, so that a bootstrap is one matrix of counts instead of a thousand sorted copies.

N pictures, K sets of weights, G distinct scores from the highest down; labels 1 = generated
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Of every interval that is called a 95 % interval.
LEVEL = 0.95

_AT_ONCE = 4_000_000  # weights in memory: 32 MB


class Ranking:
    """Scores and labels, sorted once. Figures are nan where a class is absent."""

    def __init__(self, score_N: ArrayLike, label_N: ArrayLike) -> None:
        score, label = np.asarray(score_N, np.float64), np.asarray(label_N, bool)
        if score.shape != label.shape or score.ndim != 1:
            raise ValueError(f"{score.shape} scores and {label.shape} labels: give one of each for every picture")
        if not np.isfinite(score).all():
            raise ValueError("a score that is no finite number has no rank")
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(score) else np.empty(0, int)
        self._label = label
        self._generated = label[self._order]

    def curve(self, weight_KN: Floats | None = None) -> tuple[Floats, Floats]:
        """Generated and real pictures at or above each distinct score, [K, 1 + G] each, from 0: counts by weight."""
        weight = np.ones((1, len(self._order))) if weight_KN is None else weight_KN
        ordered_KN = weight[:, self._order]
        found = []
        for of_class in (self._generated, ~self._generated):
            above = np.cumsum(ordered_KN * of_class, axis=1)[:, self._ends]
            found.append(np.concatenate([np.zeros((len(weight), 1)), above], axis=1))
        return found[0], found[1]

    def figures(self, weight_KN: Floats | None = None) -> dict[str, Floats]:
        """`auroc`, `ap`, `tpr_at_1` and `tpr_at_5` (per cent of these real pictures), [K] each."""
        tp_KG, fp_KG = self.curve(weight_KN)
        with np.errstate(invalid="ignore", divide="ignore"):
            generated_K, real_K = tp_KG[:, -1], fp_KG[:, -1]
            more_tp_KG, more_fp_KG = np.diff(tp_KG), np.diff(fp_KG)
            area_K = (more_fp_KG * (tp_KG[:, 1:] + tp_KG[:, :-1]) / 2).sum(1) / (generated_K * real_K)
            precision_KG = tp_KG[:, 1:] / (tp_KG[:, 1:] + fp_KG[:, 1:])
            average_K = np.nansum(more_tp_KG * precision_KG, axis=1) / generated_K
            return {
                "auroc": area_K,
                "ap": average_K,
                "tpr_at_1": self._tpr_at(0.01, tp_KG, fp_KG),
                "tpr_at_5": self._tpr_at(0.05, tp_KG, fp_KG),
            }

    def intervals(self, *, draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % percentile bootstrap intervals of `figures`; real and generated pictures are drawn apart."""
        parts = [self.figures(weight_KN) for weight_KN in self._draws(draws, seed)]
        bounds = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        found = {}
        for name in parts[0]:
            values = np.concatenate([part[name] for part in parts])
            low, high = (np.nan, np.nan) if np.isnan(values).all() else np.nanquantile(values, bounds)
            found[name] = (float(low), float(high))
        return found

    def _draws(self, draws: int, seed: int) -> Iterator[Floats]:
        rng = np.random.default_rng(seed)
        step = max(1, _AT_ONCE // max(1, len(self._label)))
        for first in range(0, draws, step):
            weight_KN = np.zeros((min(step, draws - first), len(self._label)))
            for of_class in (self._label, ~self._label):
                if count := int(of_class.sum()):
                    weight_KN[:, of_class] = rng.multinomial(count, np.full(count, 1 / count), size=len(weight_KN))
            yield weight_KN

    @staticmethod
    def _tpr_at(fpr: float, tp_KG: Floats, fp_KG: Floats) -> Floats:
        """Share of generated pictures above the lowest threshold that at most a share `fpr` of the real ones exceed."""
        allowed_K1 = np.floor(fpr * fp_KG[:, -1:] + 1e-9)
        last_K = (fp_KG <= allowed_K1).sum(1) - 1  # fp_KG rises
        with np.errstate(invalid="ignore", divide="ignore"):
            share: Floats = tp_KG[np.arange(len(tp_KG)), last_K] / tp_KG[:, -1]
        return np.where(fp_KG[:, -1] > 0, share, np.nan)
