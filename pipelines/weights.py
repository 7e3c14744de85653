"""Detectors and encoders that lie in S3, on this node's disk: fetched once a node, not once a process.

Nodes share no filesystem. The processes of one do, and a lock there lets one of them fetch while the others wait.
`hf://` needs nothing of this: Hugging Face's cache locks each file by itself.
"""

import os
import shutil
from hashlib import sha256
from pathlib import Path

from pipelines import s3
from pipelines.node_cache import locked, node_cache
from radet.errors import ModelError

_NOT_THE_DETECTOR = ("_train/", "tensorboard/")  # what training leaves beside it


def local_model(model: str) -> str:
    """`model` itself, or for `s3://bucket/prefix` the folder that holds its files here.

    Raises FetchError, and ModelError("weights_missing") where there is nothing.
    """
    return str(_fetched(model)) if model.startswith("s3://") else model


def find_encoders() -> None:
    """Let RADET_WEIGHTS name a folder of this node, where it names a prefix in S3. Raises as `local_model`."""
    weights = os.environ.get("RADET_WEIGHTS", "")
    if weights.startswith("s3://"):
        os.environ["RADET_WEIGHTS"] = str(_fetched(weights))


def _fetched(url: str) -> Path:
    """A complete copy, named by what the prefix holds now: changed files make another one."""
    bucket, key = s3.split(url)
    prefix = key.rstrip("/") + "/"
    found = {item.key.removeprefix(prefix): item for page in s3.pages(bucket, prefix) for item in page}
    wanted = {name: item for name, item in found.items() if name and not name.startswith(_NOT_THE_DETECTOR)}
    if not wanted:
        raise ModelError("weights_missing", f"{url} holds no files: give the prefix of a checkpoint")
    digest = sha256(url.encode())
    for name in sorted(wanted):
        digest.update(f"\0{name}\0{wanted[name].etag}".encode())
    folder = node_cache() / digest.hexdigest()[:32]
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _fetch(bucket, wanted, folder)
    return folder


def _fetch(bucket: str, wanted: dict[str, s3.Object], folder: Path) -> None:
    unfinished = folder.with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that died here
    for name, item in wanted.items():
        target = unfinished / name
        if not target.resolve().is_relative_to(unfinished.resolve()):
            raise ModelError("config_invalid", f"s3://{bucket}/{item.key} is no name for a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download(f"s3://{bucket}/{item.key}", target)
    unfinished.rename(folder)
