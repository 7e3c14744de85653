"""What a result was measured on: goes into every committed result."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from radet.software import software

_RESULTS = Path(__file__).parent / "results"
#: Of a processor's, what decides how fast products are: one name ("AMD EPYC") stands for several generations.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    flags = next(line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    card = {"card": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": model,
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        **card,
        "versions": software(),
    }


def load(name: str) -> list[Any]:
    """The rows that `save` wrote; none where there is no such file."""
    target = _RESULTS / f"{name}.json"
    rows: list[Any] = json.loads(target.read_text())["results"] if target.is_file() else []
    return rows


def save(name: str, results: Any) -> None:
    """Write benchmarks/results/NAME.json."""
    target = _RESULTS / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": describe(), "results": results}, indent=1) + "\n")
    print(f"wrote {target}")
