"""What the evidence of a detector is made of, over labelled pictures (METHOD sections 4 and 6).

    layers       how far every block's token moves: where in the encoder do the classes part?
    sweep        drift over the strength of the perturbation: does the sign hold?
    sources      drift of each generator and of each collection of real pictures
    controls     is it the probe? (radet.controls)
    divergences  features of generated pictures against a reference set's (radet.memorization)
    bound        the paper's Theorem 4.3 in numbers (radet.shift_bound)

Pictures pass in batches, which rounds otherwise than Detector.score does: by 1e-6 of a drift or so.

B batch, C=3 channels, H W pixels, N pictures, L layers (every block, then the embedding), S strengths
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from radet.controls import Control, run_controls
from radet.detector import Detector
from radet.errors import ConfigError
from radet.images import Pixels
from radet.memorization import Divergence, fit_axes, gaussian_divergence, knn_divergence, least_pictures
from radet.passes import Features, Floats, Told, batches, clean_features, probes_of, see
from radet.probes import LearnedProbe
from radet.separation import ALL, Separation, Spread, by_source, separate, spreads
from radet.shift_bound import ShiftBound, bound_shift, jacobian_energy, shifts, unit_embedding

SHIFTS = tuple(step / 255 for step in (1, 2, 4, 8, 16))

#: Axes along which divergences are measured: few, since a set of 24 pictures has to fill them.
COMPONENTS = 8

EMBEDDING = "embedding"

_GRADIENT_BATCH = 8  # a graph keeps every activation: 3 GB for 32 pictures in a ViT-B
_HUTCHINSON = 4
_SHIFT_DRAWS = 2


class LayerRow(NamedTuple):
    """How one layer's token moves under one perturbation. `measure`: "cosine", 1 - cos(t, t') in [0, 2], or
    "relative_l2", |t' - t| / |t| >= 0."""

    perturbation: str
    layer: str
    measure: str
    found: Separation


class SweepRow(NamedTuple):
    """Cosine drift of the embedding at one strength, in pixel units."""

    perturbation: str
    strength: float
    found: Separation


class DivergenceRow(NamedTuple):
    """Pictures of one source against the reference set; of a real source, for scale."""

    layer: str
    source: str
    generated: bool
    pictures: int
    reference: int
    estimator: str  # "gaussian" | "knn"
    found: Divergence


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """All that was found. `controls` is None where the probe is not a learned one; `bound` has one entry a strength
    for each estimator, and is empty where there were too few pictures for a divergence."""

    model: str
    model_id: str
    probe: str
    own_strength: float | None  # of the checkpoint's probe, in pixel units; None where it has none
    real: int  # pictures
    generated: int
    reference: int
    separate_reference: bool  # whether the reference set was given, or is DATA's own real pictures
    explained: dict[str, float]  # by layer: share of the variance along the divergences' axes
    layers: tuple[LayerRow, ...]
    sweep: tuple[SweepRow, ...]
    separations: tuple[Separation, ...]  # of the checkpoint's own drift
    sources: tuple[Spread, ...]
    controls: dict[str, Control] | None
    divergences: tuple[DivergenceRow, ...]
    bound: dict[str, tuple[ShiftBound, ...]]


def analyse(
    detector: Detector,
    crops: Iterable[Pixels],
    generated: Sequence[bool] | NDArray[np.bool_],
    sources: Sequence[str],
    *,
    reference: Iterable[Pixels] | None = None,
    seed: int = 0,
    told: Told = lambda *_: None,
) -> Analysis:
    """Analyse a detector on N labelled crops, uint8 [size, size, 3], best in an order that mixes the classes.

    `reference`: crops of the set that generated pictures are compared with; without it the real ones of `crops`.
    Costs about 50 encoder passes a picture with a learned probe. Everything random is a function of `seed`.
    Raises ConfigError where a class is missing, or lists and labels have different lengths.
    """
    listed, generated_N = list(crops), np.asarray(generated, bool)
    if not len(listed) == len(generated_N) == len(sources):
        raise ConfigError(f"{len(listed)} crops, {len(generated_N)} labels, {len(sources)} sources: give one of each")
    if generated_N.all() or not generated_N.any():
        raise ConfigError("an analysis compares generated pictures with real ones: give both")
    stacked = np.stack(listed)
    detector.eval()
    names = [*(f"block {number}" for number in range(len(detector.encoder.blocks))), EMBEDDING]
    probes = probes_of(detector)
    seen = see(detector, stacked, probes, told)
    own = next(iter(probes))
    drift_N = seen.moved[own][0][:, -1]
    references = None
    if reference is not None:
        if not (given := list(reference)):
            raise ConfigError("the reference set has no picture")
        references = clean_features(detector, np.stack(given), told)
    divergences, explained = _divergences(names, seen.features, generated_N, sources, references, seed, told)
    config = detector.config.probe
    return Analysis(
        model=detector.config.name,
        model_id=detector.model_id,
        probe=config.kind,
        own_strength={"drp": config.eps, "gaussian": config.sigma, "minder": config.sigma}.get(config.kind),
        real=int((~generated_N).sum()),
        generated=int(generated_N.sum()),
        reference=int((~generated_N).sum()) if references is None else len(references[0]),
        separate_reference=references is not None,
        explained=explained,
        layers=tuple(_layer_rows(names, seen.moved, generated_N, sources, seed)),
        sweep=tuple(
            SweepRow(perturbation, strength, found)
            for (perturbation, strength), value_N in seen.swept.items()
            for found in separate(value_N, generated_N, sources, seed)
        ),
        separations=tuple(separate(drift_N, generated_N, sources, seed)),
        sources=tuple(spreads(drift_N, generated_N, sources)),
        controls=_controls(detector, stacked, generated_N, seed, told),
        divergences=tuple(divergences),
        bound=_bounds(detector, stacked, generated_N, divergences, seed, told),
    )


def _layer_rows(
    names: list[str],
    moved: dict[str, tuple[Floats, Floats]],
    generated_N: NDArray[np.bool_],
    sources: Sequence[str],
    seed: int,
) -> Iterator[LayerRow]:
    for perturbation, measures in moved.items():
        for measure, value_NL in zip(("cosine", "relative_l2"), measures, strict=True):
            for column, layer in enumerate(names):
                for found in separate(value_NL[:, column], generated_N, sources, seed):
                    yield LayerRow(perturbation, layer, measure, found)


def _controls(
    detector: Detector, stacked: NDArray[np.uint8], generated_N: NDArray[np.bool_], seed: int, told: Told
) -> dict[str, Control] | None:
    if not isinstance(detector.probe, LearnedProbe):
        return None
    told("controls", 0, len(stacked))
    return run_controls(detector, stacked, generated_N, seed=seed)


def _divergences(
    names: list[str],
    features: Features,
    generated_N: NDArray[np.bool_],
    sources: Sequence[str],
    references: Features | None,
    seed: int,
    told: Told,
) -> tuple[list[DivergenceRow], dict[str, float]]:
    """Of all generators together, of each, and of each real source, where there are enough pictures."""
    groups = _groups(generated_N, np.asarray(sources, dtype=object))
    rows: list[DivergenceRow] = []
    explained: dict[str, float] = {}
    for number, layer in enumerate(names):
        x_ND = features[number].astype(np.float64)
        given_MD = None if references is None else references[number].astype(np.float64)
        axes = fit_axes(x_ND if given_MD is None else np.concatenate([x_ND, given_MD]), COMPONENTS)
        explained[layer] = axes.explained
        y_NK = axes.project(x_ND)
        for source, generated, chosen_N in groups:
            p_NK = y_NK[chosen_N]
            # A real source stands against the other real ones, or it would be compared with itself.
            q_MK = y_NK[~generated_N & ~chosen_N] if given_MD is None else axes.project(given_MD)
            # Copies of a picture fill no dimension.
            if min(len(np.unique(part, axis=0)) for part in (p_NK, q_MK)) < least_pictures(COMPONENTS):
                continue
            found = {
                "gaussian": gaussian_divergence(p_NK, q_MK, seed=seed),
                "knn": knn_divergence(p_NK, q_MK, seed=seed),
            }
            rows += [
                DivergenceRow(layer, source, generated, len(p_NK), len(q_MK), estimator, divergence)
                for estimator, divergence in found.items()
            ]
        told("divergences", number + 1, len(names))
    return rows, explained


def _groups(generated_N: NDArray[np.bool_], source_N: NDArray[np.object_]) -> list[tuple[str, bool, NDArray[np.bool_]]]:
    found = [(ALL, True, generated_N)]
    for generated in (True, False):
        found += [(name, generated, chosen_N) for name, chosen_N in by_source(generated_N == generated, source_N)]
    return found


def _bounds(
    detector: Detector,
    stacked: NDArray[np.uint8],
    generated_N: NDArray[np.bool_],
    divergences: Sequence[DivergenceRow],
    seed: int,
    told: Told,
) -> dict[str, tuple[ShiftBound, ...]]:
    symmetric = {row.estimator: row.found.value for row in divergences if (row.layer, row.source) == (EMBEDDING, ALL)}
    if not symmetric:
        return {}
    embed = unit_embedding(detector.encoder)
    energies, moved = [], []
    for done, x_BCHW in batches(detector, stacked, _GRADIENT_BATCH):
        energies.append(jacobian_energy(embed, x_BCHW, probes=_HUTCHINSON, seed=seed + done).cpu().numpy())
        moved.append(shifts(embed, x_BCHW, SHIFTS, draws=_SHIFT_DRAWS, seed=seed).cpu().numpy())
        told("bound", done, len(stacked))
    energy_N, shift_NS = np.concatenate(energies), np.concatenate(moved)
    return {
        estimator: tuple(
            bound_shift(rms, energy_N, shift_NS[:, column], generated_N, divergence, seed=seed)
            for column, rms in enumerate(SHIFTS)
        )
        for estimator, divergence in symmetric.items()
    }
