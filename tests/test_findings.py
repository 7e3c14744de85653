"""What an analysis says in words, for numbers that turned out one way and the other."""

from dataclasses import replace

import pytest

from radet.analysis import EMBEDDING, Analysis, DivergenceRow, LayerRow, SweepRow
from radet.controls import Control
from radet.findings import sentences, tables
from radet.memorization import Divergence
from radet.separation import ALL, Separation
from radet.shift_bound import Gap, ShiftBound

SURE = {"generated": (0.9, 0.85, 0.95), "real": (0.2, 0.1, 0.3), "undecided": (0.5, 0.4, 0.6)}


def found(larger: str, source: str = ALL) -> Separation:
    """Its median drifts are 2 of generated and 1 of real pictures."""
    return Separation(source, 30, 40, *SURE[larger], 2.0, 1.0)


def moved(layer: str, larger: str, measure: str = "cosine", source: str = ALL) -> LayerRow:
    return LayerRow("drp", layer, measure, found(larger, source))


def controls(**drifts: float) -> dict[str, Control]:
    names = ("learned", "random", "equalised", "swapped", "norm")
    return {name: Control(drifts.get(name, 0.5), 0.5, 0.5) for name in names}


def bound(energy: Gap, *, divergence: float = 0.5, first_order: float = -0.5) -> ShiftBound:
    return ShiftBound(
        rms=8 / 255, energy_gap=energy, first_order=first_order, divergence=divergence, penalty=2.0, penalty_seen=1.0,
        measured=Gap(0.25, 0.125, 0.375),
    )  # fmt: skip


PLAIN = Analysis(
    model="x", model_id="0", probe="drp", own_strength=0.05, real=40, generated=30, reference=40,
    separate_reference=False, explained={}, layers=(moved(EMBEDDING, "generated"),), sweep=(),
    separations=(found("generated"),), sources=(), controls=None, divergences=(), bound={},
)  # fmt: skip


def said(**parts: object) -> str:
    return " ".join(sentences(replace(PLAIN, **parts)))  # type: ignore[arg-type]


def test_a_sign_and_the_generators_that_invert_it() -> None:
    told = said(separations=(found("real"), found("generated", "a"), found("real", ""), found("undecided", "c")))
    assert "Under the learned probe at its strength 0.05, generated pictures drift less than real ones" in told
    assert "the sign is inverted: AUROC of the drift 0.20 (0.10 to 0.30)." in told
    assert "The median drift is 2 for generated, 1 for real pictures." in told
    assert "Of 3 generators, 1 drift more than the real pictures, 1 less, and for 1 these pictures are too few" in told
    assert "The sign is inverted for (unnamed) (0.20 (0.10 to 0.30)): a large drift speaks against generation" in told
    told = said(separations=(found("generated"), found("generated", "a"), found("generated", "b")))
    assert "generated pictures drift more than real ones: AUROC" in told
    assert "2 drift more than the real pictures, 0 less" in told
    assert "inverted" not in told


def test_the_layer_that_parts_the_classes_most_whichever_way() -> None:
    others = moved("block 1", "generated", "relative_l2"), moved("block 1", "generated", source="a")
    told = said(
        layers=(moved("block 0", "real"), moved("block 1", "undecided"), *others, moved(EMBEDDING, "undecided"))
    )
    assert "most at the token of block 0, AUROC 0.20 (0.10 to 0.30); at the embedding it is 0.50" in told
    told = said(layers=(moved("block 0", "real"), moved(EMBEDDING, "generated")))
    assert "most at the embedding, AUROC 0.90" in told


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        (("generated", "undecided", "real"), "the sign flips: 1 more (0.90), 3 less (0.20)."),
        (
            ("generated", "undecided", "generated"),
            "generated pictures drift more than real ones at 2 of 3 strengths and the sign is never the opposite; "
            "AUROC lies between 0.50 and 0.90.",
        ),
        (("undecided", "real"), "generated pictures drift less than real ones at 1 of 2 strengths"),
        (("undecided",), "no strength has a sign that can be told from 0.5; AUROC lies between 0.50 and 0.50."),
    ],
)
def test_the_sweep(signs: tuple[str, ...], words: str) -> None:
    rows = [SweepRow("gaussian", strength, found(sign)) for strength, sign in enumerate(signs, 1)]
    other = SweepRow("gaussian", 1, found("real", "one generator alone"))
    assert f"From strength 1 to {len(signs)} of gaussian noise {words}" in said(sweep=(*rows, other))


@pytest.mark.parametrize(
    ("drifts", "words"),
    [
        ({"learned": 0.9, "norm": 0.12}, "The probe's own output norm tells as much as the drift does"),
        ({"learned": 0.9, "random": 0.89}, "Noise of the same norm does as well"),
        ({"learned": 0.1, "swapped": 0.05}, "Another picture's perturbation does as well"),
        ({"learned": 0.9, "norm": 0.9, "random": 0.9}, "may echo its verdict; noise of the same norm does as well"),
        (
            {"learned": 0.9, "norm": 0.6, "random": 0.85, "swapped": 0.15},
            "No control reaches the learned probe's drift",
        ),
        ({"learned": 0.51, "norm": 0.9}, "nothing in this drift that a control could take away"),
    ],
)
def test_what_a_control_explains(drifts: dict[str, float], words: str) -> None:
    told = said(controls=controls(**drifts))
    assert f"The learned perturbation's drift has AUROC {drifts['learned']:.2f}" in told
    assert words in told
    for real, generated in ((5, 30), (30, 5)):
        assert words not in said(controls=controls(**drifts), real=real, generated=generated)


def test_a_divergence_beside_chance_and_beside_real_collections() -> None:
    def row(source: str, value: float, *, chance: float = 0.5, layer: str = EMBEDDING, by: str = "gaussian") -> object:
        return DivergenceRow(layer, source, source == ALL, 30, 40, by, Divergence(value, value - 1, value + 1, chance))

    rows = (
        row(ALL, 2),
        row("seen0", 0.3),
        row("seen1", 0.7),
        row("seen2", 9, layer="block 0"),
        row("seen2", 9, by="knn"),
    )
    told = said(divergences=rows)
    assert (
        "against the real pictures (gaussian, embedding): 2.00 nats (1.00 to 3.00), more than the same pictures" in told
    )
    assert "single collections of real pictures lie 0.30 to 0.70 nats from the other real pictures (gaussian)" in told
    told = said(divergences=(row(ALL, 2, chance=2.5), *rows[1:]), separate_reference=True)
    assert "against the reference set (gaussian, embedding): 2.00 nats (1.00 to 3.00), no more than the same" in told
    assert "give (2.50)" in told
    assert "nats from the reference set (gaussian)" in told


def test_the_bound_and_the_energies() -> None:
    sure = Gap(2.0, 1.0, 3.0)
    for energy, words in (
        (sure, "Generated pictures have the larger Jacobian energy"),
        (Gap(-2.0, -3.0, -1.0), "Generated pictures have the smaller Jacobian energy"),
        (Gap(2.0, -1.0, 3.0), "cannot be told from so few"),
        (Gap(-2.0, -3.0, 1.0), "cannot be told from so few"),
    ):
        told = said(bound={"gaussian": (bound(energy),)})
        assert words in told
        assert "it is -2.5 at best, below zero" in told
    assert "At 8/255 root mean square the Jacobians predict a gap of -0.5 and 0.25 (0.12 to 0.38) is measured" in told
    told = said(bound={"gaussian": (bound(sure, first_order=3.0), bound(sure)), "knn": (bound(sure),)})
    assert "is positive at 1 of 3 strengths and estimators" in told


def test_tables_have_no_number_that_json_has_not() -> None:
    (row,) = tables(replace(PLAIN, bound={"knn": (bound(Gap(1.0, 0.5, 2.0), divergence=0.0, first_order=1.0),)}))[
        "bound"
    ]
    assert (row["largest_range"], row["bound"], row["bound_seen"]) == (None, -1.0, 0.0)
