"""One optimiser step, in plain torch: any device, no Ray, one process or many.

A step sees a GLOBAL batch as numbered micro-batches, some here and some on other ranks. Whatever is random in one
(dropout, eps) is a function of seed, step and its number, and everything that is averaged is averaged over the global
batch. So how micro-batches lie on ranks changes nothing but rounding, and a resumed run needs no random state.

B batch, M micro-batches
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radet.config import UNKNOWN, AttributionConfig, DetectorConfig
from radet.detector import Detector, Outcome, to_pixels
from radet.encoders import Look, describe, load_encoder
from radet.errors import ConfigError
from radet.losses import classification, contrastive_margin, drift_sums
from radet.recipe import Recipe
from radet.tensors import Reduce


class MicroBatch(NamedTuple):
    """B labelled crops."""

    number: int  # within the global batch
    crops: Tensor  # uint8 [B, size, size, 3]
    label: Tensor  # [B], 1 generated, 0 real
    pictures: NDArray[np.int64]  # [B], positions in the training listing
    clean: Look | None = None  # their clean pass, where it is known


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step measured over the global batch."""

    loss: float  # all terms
    classification: float  # BCE(fused) + branch_weight sum_b BCE(branch_b)
    margin: float  # L_ra, unweighted
    drift_real: float  # mean u of real pictures, nan without a probe
    drift_generated: float
    gradient_norm: float  # before clipping
    rate: float

    def to_dict(self) -> dict[str, float]:
        """By field name."""
        return asdict(self)


def new_detector(recipe: Recipe, *, families: tuple[str, ...] = (), device: str = "cpu") -> Detector:
    """An untrained detector: encoder loaded, probe and heads at the recipe's seeded start.

    `families` are the generators that a recipe with `attribution` learns to tell apart (radet.attribution.families_of).
    Raises ModelError as radet.encoders.describe does; ConfigError for a layer that the encoder does not have, or where
    there are fewer than two families to tell apart.
    """
    choice = recipe.encoder
    encoder = describe(**asdict(choice), size=recipe.crop.size)
    frozen = load_encoder(encoder, Path(), precision=recipe.precision)
    dims = frozen.token_dims(recipe.layers, recipe.crop.size)
    config = DetectorConfig(
        name=recipe.name,
        description=recipe.description,
        precision=recipe.precision,
        crop=recipe.crop,
        encoder=encoder,
        probe=recipe.probe,
        reference=None,
        heads=recipe.heads(dims, _attribution(families) if recipe.attribution else None),
    )
    torch.manual_seed(recipe.seed)
    return Detector(config, frozen, None).to(device)


def _attribution(families: tuple[str, ...]) -> AttributionConfig:
    if len(families) < 2:
        raise ConfigError("attribution: the training pictures name fewer than two generators; set attribution: false")
    if UNKNOWN in families:
        raise ConfigError(f"attribution: a generator is called {UNKNOWN!r}, the answer for none of them: rename it")
    return AttributionConfig(families=families)


def trainable(detector: Detector) -> list[nn.Parameter]:
    """The parameters that training changes: probe and heads."""
    return [parameter for parameter in detector.parameters() if parameter.requires_grad]


def new_optimiser(detector: Detector, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; biases, norms and fusion weights are not decayed."""
    parameters = trainable(detector)
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.optimiser.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.optimiser.rate,
    )


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """Learning rate of step 0 <= step < steps: linear warm-up, then half a cosine down to zero."""
    warm = max(1, round(recipe.optimiser.warmup * steps))
    if step < warm:
        return recipe.optimiser.rate * (step + 1) / warm
    return recipe.optimiser.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_step(
    detector: Detector,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[MicroBatch],
    recipe: Recipe,
    *,
    step: int,
    steps: int,
    reduce: Reduce = lambda _: None,
) -> StepReport:
    """Step 0 <= `step` < `steps` on this rank's share of a global batch, which may be empty.

    `reduce` adds up over the ranks: each of them calls this, and all end with the same parameters.
    """
    batches = [batch for batch in batches if len(batch.label)]
    detector.train()
    rate = rate_at(step, steps, recipe)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=False)

    pulls = recipe.margin.weight > 0 and recipe.probe.kind == "drp"  # whether the margin is a part of the loss
    sums, only = _look_ahead(detector, batches, recipe, step, pulls)
    reduce(sums)
    margin = contrastive_margin(sums[:4], recipe.margin.gamma, normalised=recipe.margin.normalised)
    pictures = float(sums[4])

    found = torch.zeros(5, dtype=torch.float64, device=detector.device)  # mean classification loss, drift sums
    for batch in batches:
        x_BCHW, label_B, eps = _prepared(detector, batch, recipe, step)
        outcome = only if only is not None else detector(x_BCHW, clean=batch.clean, eps=eps)
        assert outcome.fused is not None  # only heads are trained
        loss = classification(outcome.fused, outcome.branches, label_B, recipe.branch_weight).sum() / pictures
        found[0] += loss.detach().double()
        if outcome.drift is not None:
            found[1:] += drift_sums(outcome.drift.cosine, label_B)
            if pulls:
                loss = loss + recipe.margin.weight * (margin.pull(label_B) * outcome.drift.cosine).sum()
        loss.backward()  # type: ignore[no-untyped-call]
    reduce(found)
    parameters = trainable(detector)
    _reduce_gradients(parameters, reduce)
    norm = float(nn.utils.clip_grad_norm_(parameters, recipe.optimiser.clip))
    optimiser.step()
    margin_loss = margin.loss if pulls else 0.0
    return StepReport(
        loss=float(found[0]) + recipe.margin.weight * margin_loss,
        classification=float(found[0]),
        margin=margin_loss,
        drift_real=_ratio(found[1], found[2]),
        drift_generated=_ratio(found[3], found[4]),
        gradient_norm=norm,
        rate=rate,
    )


def _look_ahead(
    detector: Detector, batches: Sequence[MicroBatch], recipe: Recipe, step: int, pulls: bool
) -> tuple[Tensor, Outcome | None]:
    """What the margin needs of the global batch before any gradient: this rank's drift sums and number of pictures,
    fp64 [5]. And the outcome of the pass that gave them, where it can be used for the gradients too.

    With one micro-batch on this rank its own pass gives the sums. With several a pass without gradients comes first,
    the price of a global batch that does not fit memory.
    """
    sums = torch.zeros(5, dtype=torch.float64, device=detector.device)
    sums[4] = sum(len(batch.label) for batch in batches)
    if len(batches) == 1:
        x_BCHW, label_B, eps = _prepared(detector, batches[0], recipe, step)
        only: Outcome = detector(x_BCHW, clean=batches[0].clean, eps=eps)
        if only.drift is not None:
            sums[:4] = drift_sums(only.drift.cosine, label_B)
        return sums, only
    for batch in batches if pulls else ():
        x_BCHW, label_B, eps = _prepared(detector, batch, recipe, step)
        with torch.no_grad():
            clean = batch.clean or detector.encoder.look(x_BCHW, detector.layers)
            sums[:4] += drift_sums(detector.drift(x_BCHW, clean, eps).cosine, label_B)
    return sums, None


def _prepared(
    detector: Detector, batch: MicroBatch, recipe: Recipe, step: int
) -> tuple[Tensor, Tensor, float | Tensor | None]:
    """Pixels [B, 3, H, W], labels [B] and eps of a micro-batch; sets the random state that belongs to it."""
    torch.manual_seed(_seed(recipe.seed, step, batch.number))
    x_BCHW = to_pixels(batch.crops.to(detector.device))
    return x_BCHW, batch.label.to(x_BCHW.device), _draw_eps(recipe, x_BCHW)


def _reduce_gradients(parameters: Iterable[nn.Parameter], reduce: Reduce) -> None:
    """Add gradients up over the ranks, as one tensor: three million numbers want one message, not a hundred."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def _draw_eps(recipe: Recipe, x_BCHW: Tensor) -> Tensor | None:
    if recipe.eps_range is None:
        return None
    low, high = recipe.eps_range
    return low + (high - low) * torch.rand((len(x_BCHW), 1, 1, 1), device=x_BCHW.device)


def _seed(*parts: int) -> int:
    """One number of several, such that neighbours share nothing."""
    mixed = 0x9E3779B97F4A7C15
    for part in parts:
        mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0x7FFFFFFFFFFFFFFF
        mixed ^= mixed >> 29
    return mixed


def _ratio(total: Tensor, count: Tensor) -> float:
    return float(total / count) if count else math.nan
