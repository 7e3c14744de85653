"""What one score costs: multiply-accumulates, and time against another detector's."""

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from radet.detector import Detector
from radet.onednn import torch_only

_ROUNDS = 5


def gmac(detector: Detector) -> float:
    """Multiply-accumulates of one picture, in 1e9, decoding apart."""
    with torch.inference_mode(), torch_only(), FlopCounterMode(display=False) as counter:
        detector.evidence(_crop(detector))
    return float(counter.get_total_flops()) / 2e9


def relative_time(detector: Detector, other: Detector) -> float:
    """How long a score of `detector` takes on this machine, where one of `other` takes 1.

    The two are measured by turns, and the shortest times count: other programs may compute meanwhile.
    """
    least = [math.inf, math.inf]
    for _ in range(_ROUNDS):
        for place, one in enumerate((detector, other)):
            begun = time.perf_counter()
            one.evidence(_crop(one))
            least[place] = min(least[place], time.perf_counter() - begun)
    return least[0] / least[1]


def _crop(detector: Detector) -> NDArray[np.uint8]:
    size = detector.config.crop.size
    return np.zeros((1, size, size, 3), np.uint8)
