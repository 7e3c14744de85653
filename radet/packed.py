"""model.safetensors, a checkpoint's own tensors, as bytes. Imports no torch, as radet.config."""

import hashlib
import json
from pathlib import Path

from radet.errors import ModelError

FILE = "model.safetensors"


def read_packed(folder: Path) -> bytes:
    """The file of a checkpoint. Raises ModelError (weights_missing, weights_mismatch)."""
    file = folder / FILE
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ModelError("weights_missing", f"{folder} has no {FILE}") from None
    except OSError as error:
        raise ModelError("weights_mismatch", f"{file} cannot be read: {error.strerror}") from None


def packed_sha256(data: bytes, source: object) -> str:
    """SHA-256, in hex, of these tensors as Detector.save_pretrained writes them: sorted by name, without metadata. So
    the same tensors have the same hash, whichever program wrote `data`.

    Raises ModelError("weights_mismatch") that names `source` where `data` is no such file.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        told = json.loads(data[8:start])
        told.pop("__metadata__", None)
        tensors, header, parts, end = memoryview(data)[start:], {}, list[memoryview](), 0
        for name, tensor in sorted(told.items()):
            first, last = tensor["data_offsets"]
            part = tensors[first:last]
            header[name] = {
                "dtype": tensor["dtype"],
                "shape": tensor["shape"],
                "data_offsets": [end, end + len(part)],
            }
            parts.append(part)
            end += len(part)
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise ModelError("weights_mismatch", f"{source} is no readable safetensors file") from None
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256(len(text).to_bytes(8, "little") + text)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
