"""The figures of an evaluation as files: metrics.json for programs, tables/*.csv for spreadsheets."""

import csv
import io
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.storage import Folder
from radet.degradations import CLEAN
from radet.software import software

if TYPE_CHECKING:
    from pipelines.evaluate import Evaluation


def write_tables(folder: Folder, data: str, found: "Evaluation") -> None:
    """Write metrics.json and tables/*.csv."""
    document = {
        "format_version": 1,
        "software": software(),
        "data": {"src": data, "summary": found.labelled.summary(), "conditions": found.conditions},
        "detectors": [
            {"name": c.name, "source": c.source, "model_id": c.model_id, "ms": c.ms, "gmac": c.gmac}
            for c in found.contenders
        ],
        "stated_rates": found.promises,
        "attribution": {c.name: c.confusion for c in found.contenders if c.confusion is not None},
        "results": found.rows,
        "failures": found.failures,
    }
    folder.write("metrics.json", json.dumps(nullable(document), indent=1, ensure_ascii=False).encode())
    tables: dict[str, Callable[[dict[str, Any]], bool]] = {
        "overall": lambda row: row["condition"] == CLEAN and row["scope"] == "all",
        "generators": lambda row: row["condition"] == CLEAN and row["scope"] == "generator",
        "pair_groups": lambda row: row["condition"] == CLEAN and row["scope"] == "pair group",
        "conditions": lambda row: row["scope"] == "all",
    }
    for name, wanted in tables.items():
        folder.write(f"tables/{name}.csv", _csv([row for row in found.rows if wanted(row)]))


def _csv(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "intervals"))
    bounded = list(dict.fromkeys(name for row in rows for name in row.get("intervals", {})))
    header = [*names, *(f"{name}_{end}" for name in bounded for end in ("low", "high"))]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    for row in rows:
        intervals = row.get("intervals", {})
        ends = [value for name in bounded for value in intervals.get(name, ("", ""))]
        writer.writerow([*(row.get(name, "") for name in names), *ends])
    return text.getvalue().encode()


def nullable(value: Any) -> Any:
    """The same, with None for every number that is not finite, also inside: JSON knows no nan."""
    if isinstance(value, dict):
        return {key: nullable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nullable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
