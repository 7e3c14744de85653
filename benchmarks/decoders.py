"""Which JPEG decoder and resizer give the crop at the least cost? The measurement behind radet.images.

    python -m benchmarks.decoders [--out benchmarks/results/decoders.json]

Every candidate turns the same bytes into the same crop (shorter side 256, centre 224) on one thread of a process of its
own. Reported: images per CPU-second (best of several rounds, spread over the run); memory that its imports add to an
interpreter with numpy, all and private (the rest is shared by the processes of a machine); peak memory while it
decodes; and the difference to Pillow's bicubic in levels of 255. Candidates whose library is not installed are left out
(pip install opencv-python-headless torchcodec).
"""
# ruff: noqa: PLC0415  a candidate imports its libraries itself: their memory is part of the result

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"500x400": 60, "1600x1200": 10, "4000x3000": 3}  # width x height: images a round
PASSES, ROUNDS = 3, 3
RESIZE, CROP = 256, 224
RATE = "images_per_cpu_second"

Decode = Callable[[bytes], np.ndarray]


def pillow_decode() -> Decode:
    from PIL import Image

    return lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def torchvision_decode() -> Decode:
    import torch
    from torchvision.io import decode_jpeg

    warnings.simplefilter("ignore")  # deprecated since torchvision 0.29

    def decode(data: bytes) -> np.ndarray:
        rgb: np.ndarray = (
            decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), "RGB").permute(1, 2, 0).numpy()
        )
        return rgb

    return decode


def torchcodec_decode() -> Decode:
    from torchcodec.decoders import decode_jpeg

    return lambda data: decode_jpeg(data).permute(1, 2, 0).numpy()


def simplejpeg_decode() -> Decode:
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data, "RGB")


def opencv_decode() -> Decode:
    import cv2

    cv2.setNumThreads(1)
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def pillow_resize(reducing_gap: float | None = None) -> Callable[[np.ndarray, int, int], np.ndarray]:
    from PIL import Image

    def resize(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
        image = Image.fromarray(rgb)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=reducing_gap))

    return resize


def torch_resize() -> Callable[[np.ndarray, int, int], np.ndarray]:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # read-only arrays

    def resize(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
        x_1CHW = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
        y_1CHW = torch.nn.functional.interpolate(x_1CHW, (height, width), mode="bicubic", antialias=True)
        return y_1CHW[0].permute(1, 2, 0).numpy()

    return resize


def v2_resize() -> Callable[[np.ndarray, int, int], np.ndarray]:
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def resize(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
        x_CHW = torch.from_numpy(rgb).permute(2, 0, 1)
        y_CHW = functional.resize(x_CHW, [height, width], InterpolationMode.BICUBIC, antialias=True)
        resized: np.ndarray = y_CHW.permute(1, 2, 0).numpy()
        return resized

    return resize


def opencv_resize() -> Callable[[np.ndarray, int, int], np.ndarray]:
    import cv2

    return lambda rgb, height, width: cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


CANDIDATES: dict[str, tuple[Callable[[], Decode], Callable[[], Any]]] = {
    "Pillow": (pillow_decode, pillow_resize),
    "Pillow, reducing_gap 3": (pillow_decode, lambda: pillow_resize(3.0)),
    "Pillow + torch": (pillow_decode, torch_resize),
    "torchvision + v2": (torchvision_decode, v2_resize),
    "torchcodec + torch": (torchcodec_decode, torch_resize),
    "simplejpeg + Pillow": (simplejpeg_decode, pillow_resize),
    "simplejpeg + Pillow, reducing_gap 3": (simplejpeg_decode, lambda: pillow_resize(3.0)),
    "simplejpeg + OpenCV area": (simplejpeg_decode, opencv_resize),
    "simplejpeg + torch": (simplejpeg_decode, torch_resize),
    "OpenCV area": (opencv_decode, opencv_resize),
}
NEEDS = {"OpenCV": "cv2", "torchcodec": "torchcodec", "simplejpeg": "simplejpeg", "torchvision": "torchvision"}
PACKAGES = ("numpy", "pillow", "torch", "torchvision", "simplejpeg", "torchcodec", "opencv-python-headless")


def measure(name: str) -> dict[str, Any]:
    """One candidate, in this process."""
    start, private = memory("VmRSS"), memory("RssAnon")
    make_decode, make_resize = CANDIDATES[name]
    decode, resize = make_decode(), make_resize()
    row: dict[str, Any] = {
        "candidate": name,
        "imports_mb": memory("VmRSS") - start,
        "imports_private_mb": memory("RssAnon") - private,
    }
    for size, count in SIZES.items():
        data = (Path(os.environ["PICTURES"]) / f"{size}.jpg").read_bytes()
        crop = crop_of(data, decode, resize)
        reference = np.load(Path(os.environ["PICTURES"]) / f"{size}.npy").astype(int)
        rates = []
        for _ in range(ROUNDS):
            begin = time.process_time()
            for _ in range(count):
                crop_of(data, decode, resize)
            rates.append(count / (time.process_time() - begin))
        difference = np.abs(crop - reference)
        row[size] = {
            RATE: round(max(rates), 1),
            "mean_difference": round(float(difference.mean()), 4),
            "largest_difference": int(difference.max()),
        }
    row["peak_mb"] = memory("VmHWM") - start
    return row


def crop_of(data: bytes, decode: Decode, resize: Callable[[np.ndarray, int, int], np.ndarray]) -> np.ndarray:
    rgb = decode(data)
    height, width = rgb.shape[:2]
    small = resize(rgb, RESIZE * height // min(height, width), RESIZE * width // min(height, width))
    top, left = (small.shape[0] - CROP) // 2, (small.shape[1] - CROP) // 2
    return np.ascontiguousarray(small[top : top + CROP, left : left + CROP])


def memory(field: str) -> int:
    """MiB of this process, from /proc/self/status."""
    match = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match
    return int(match.group(1)) // 1024


def write_pictures(folder: Path) -> None:
    """One JPEG a size, a photograph with sensor-like noise, and Pillow's crop of it."""
    import skimage.data
    from PIL import Image

    rng = np.random.default_rng(0)
    photograph = Image.fromarray(skimage.data.astronaut())
    for size in SIZES:
        width, height = map(int, size.split("x"))
        pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = (pixels + rng.integers(-6, 7, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{size}.jpg", quality=88)
        data = (folder / f"{size}.jpg").read_bytes()
        np.save(folder / f"{size}.npy", crop_of(data, pillow_decode(), pillow_resize()))


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    models = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {"cpu": models[0], "cores": len(models), "python": sys.version.split()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    parser.add_argument("--candidate", choices=CANDIDATES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.candidate:
        print(json.dumps(measure(arguments.candidate)))
        return

    installed = [
        name
        for name in CANDIDATES
        if all(importlib.util.find_spec(module) for word, module in NEEDS.items() if word in name)
    ]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        for name in installed * PASSES:
            command = [sys.executable, __file__, "--candidate", name]
            done = subprocess.run(command, env=os.environ | {"PICTURES": folder}, stdout=subprocess.PIPE, check=True)
            row = json.loads(done.stdout)
            earlier = rows.setdefault(name, row)
            for size in SIZES:
                row[size][RATE] = max(row[size][RATE], earlier[size][RATE])
            rows[name] = row
    print(
        f"{'images per CPU-second':36}"
        + "".join(f"{size:>11}" for size in SIZES)
        + "   imports  private    peak    diff"
    )
    for name, row in rows.items():
        rates = "".join(f"{row[size][RATE]:>11}" for size in SIZES)
        difference = max(row[size]["mean_difference"] for size in SIZES)
        megabytes = f"{row['imports_mb']:>7} MB{row['imports_private_mb']:>6} MB{row['peak_mb']:>5} MB"
        print(f"{name:36}{rates}{megabytes}{difference:>8.3f}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "benchmark": "JPEG to crop",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": {name: version(name) for name in PACKAGES},
            "rows": list(rows.values()),
        }
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
