"""`radet analyze`: labelled pictures in; analysis.json, tables, plots and a page out. radet.analysis does the maths."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.fetch import Fetcher
from pipelines.items import display
from pipelines.labelled import Labelled, list_labelled, list_reference, refuse_web
from pipelines.s3 import greet
from pipelines.storage import Folder, open_folder, require_writable
from pipelines.weights import find_encoders, local_model
from radet.analysis import Analysis, analyse
from radet.crop import CropPolicy
from radet.detector import Detector
from radet.errors import ConfigError, FetchError, ImageError
from radet.findings import Row, to_dict
from radet.images import Pixels
from radet.passes import Told
from radet.rows import see

_READERS = 8
_AHEAD = 64  # pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzeJob:
    """What `radet analyze` was asked for."""

    data: str
    model: str
    out: str
    reference: str | None = None
    limit: int = 400
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyzed:
    """`broken`: location -> what is wrong with it, for pictures that could not be read and were left out."""

    findings: list[str]  # sentences
    broken: dict[str, str]


def analyze(job: AnalyzeJob, told: Told) -> Analyzed:
    """Read, analyse, and write everything to `job.out`, analysis.json last.

    Raises ConfigError or ModelError, before any work, for a request that cannot work.
    """
    greet(job.model, job.data, job.reference or "", job.out)
    listed = list_labelled(job.data)
    refuse_web(job.data, listed.locations, "an analysis")
    reference = None
    if job.reference is not None:
        reference = list_reference(job.reference)
        refuse_web(job.reference, reference, "an analysis")
    require_writable(job.out)
    find_encoders()
    detector = Detector.from_pretrained(local_model(job.model), device=job.device)
    folder = open_folder(job.out)
    chosen = choose(listed, job.limit)
    locations = [listed.locations[position] for position in chosen]
    broken: dict[str, str] = {}
    crops = list(_read(locations, detector.config.crop, broken, "reading", told))
    readable = [position for position, location in zip(chosen, locations, strict=True) if location not in broken]
    generated = listed.generated[readable]
    if not len(generated) or generated.all() or not generated.any():
        first = next(iter(broken.items()), None)
        why = "" if first is None else f"; for one, {first[0]}: {first[1]}"
        raise ConfigError(f"{job.data}: no readable pictures of both classes are left{why}")
    others = None
    if reference is not None:
        picked = np.random.default_rng(0).permutation(len(reference))[: job.limit]
        others = list(
            _read([reference[index] for index in picked], detector.config.crop, broken, "reading reference", told)
        )
        if not others:
            raise ConfigError(f"{job.reference}: none of its pictures can be read")
    sources = [listed.sources[position] for position in readable]
    analysis = analyse(detector, crops, generated, sources, reference=others, told=told)
    document: dict[str, Any] = {
        "data": display(job.data),
        "reference_data": None if job.reference is None else display(job.reference),
        "listed": len(listed.locations),
        "broken": {display(location): why for location, why in broken.items()},
        **to_dict(analysis),
    }
    told("writing", 0, 1)
    _write(folder, analysis, document)
    told("writing", 1, 1)
    return Analyzed(findings=document["findings"], broken=broken)


def _write(folder: Folder, analysis: Analysis, document: dict[str, Any]) -> None:
    # Only now: it may build a font cache, and says so on stderr, where a request that cannot work has one line.
    from pipelines.analysis_page import page  # noqa: PLC0415
    from pipelines.plots_analysis import draw  # noqa: PLC0415

    for name, rows in document["tables"].items():
        if rows:
            folder.write(f"{name}.csv", _csv(rows))
    plots = draw(analysis)
    for name, plot in plots.items():
        folder.write(f"{name}.png", plot.png)
        folder.write(f"{name}.svg", plot.svg)
    folder.write("index.html", page(document, plots).encode())
    folder.write("analysis.json", (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def choose(listed: Labelled, limit: int) -> list[int]:
    """At most `limit` positions, in a seeded order that mixes the classes.

    Half of each class, and within a class the sources take turns: a large collection does not crowd out small ones.
    What one class cannot fill the other does.
    """
    rng = np.random.default_rng(0)
    queues = [_turns(listed, bool(generated), rng) for generated in (False, True)]
    room = [limit - limit // 2, limit // 2]
    room = [max(room[0], limit - len(queues[1])), max(room[1], limit - len(queues[0]))]
    chosen = np.array([position for queue, count in zip(queues, room, strict=True) for position in queue[:count]])
    return [int(position) for position in rng.permutation(chosen)]


def _turns(listed: Labelled, generated: bool, rng: np.random.Generator) -> list[int]:
    """Positions of a class: the first of every source, then the second of every source, and so on."""
    source_N = np.asarray(listed.sources, dtype=object)
    of_class_N = listed.generated == generated
    ranked: list[tuple[int, str, int]] = []
    for source in sorted(set(source_N[of_class_N])):
        members: NDArray[np.intp] = rng.permutation(np.flatnonzero(of_class_N & (source_N == source)))
        ranked += [(turn, str(source), int(position)) for turn, position in enumerate(members)]
    return [position for _, _, position in sorted(ranked)]


def _read(
    locations: Sequence[str], policy: CropPolicy, broken: dict[str, str], stage: str, told: Told
) -> Iterator[Pixels]:
    """Crops in order; what cannot be read is left out and named in `broken`."""
    fetcher = Fetcher(allow_http=False)

    def load(location: str) -> Pixels | str:
        try:
            row = see(fetcher.read(location), policy)
        except (FetchError, ImageError) as error:
            return str(error)
        return str(row.facts["error"]) if row.crop is None else row.crop

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(locations), _AHEAD):
            part = locations[start : start + _AHEAD]
            for location, crop in zip(part, pool.map(load, part), strict=True):
                if isinstance(crop, str):
                    broken[location] = crop
                else:
                    yield crop
            told(stage, start + len(part), len(locations))


def _csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
