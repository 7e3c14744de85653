"""What a training run keeps below its OUT: Ray Train's state, and beside it what the run was begun with.

A state belongs to the recipe and the pictures that made it. With others a run would go on all the same, and nobody
would see that its logits are of other pictures than its labels.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import pyarrow.fs
import s3fs

from pipelines.labelled import Labelled
from pipelines.lease import NAME as LOCK
from pipelines.storage import LocalFolder, S3Folder, open_folder
from radet.detector import Detector
from radet.errors import ConfigError
from radet.recipe import Recipe

STATE = "_train"  # below OUT
_BEGUN = f"{STATE}/begun_with.json"
_MAY_CHANGE = {"name", "description", "epochs", "patience", "micro_batch", "cache_clean"}  # neither model nor data
_NAMED = 5

#: What a run is begun with -> its value, or a hash of it.
Beginning = dict[str, Any]


def beginning_of(recipe: Recipe, detector: Detector, training: Labelled, validation: Labelled) -> Beginning:
    """Of a run by this recipe, whose untrained detector is `detector`."""
    plain = {key: value for key, value in asdict(recipe).items() if key not in _MAY_CHANGE}
    beginning: Beginning = {
        "the training pictures": _digest(training),
        "the validation pictures": _digest(validation),
        "the encoder's weights": detector.config.encoder.sha256,
        **_flat("the recipe's ", plain),
    }
    found: Beginning = json.loads(json.dumps(beginning))  # as it is read again
    return found


def state_folder(out: str) -> LocalFolder | S3Folder:
    """Where a run keeps its state, and its lease: not beside the checkpoint's files, which are copied about."""
    return open_folder(f"{out.rstrip('/')}/{STATE}")


def _holds(folder: LocalFolder | S3Folder, name: str) -> bool:
    try:
        folder.read(name)
    except OSError:
        return False
    return True


def require_free(out: str, *, resume: bool) -> None:
    """Raises ConfigError where OUT holds a run that was begun, unless it is to be gone on with; and where no run was
    begun, files that the checkpoint's would replace."""
    folder = open_folder(out)
    if any(item.name != f"{STATE}/{LOCK}" for item in folder.list(f"{STATE}/")):
        if not resume:
            if _holds(folder, "config.json"):  # written last
                mend = "give another --out, or --resume for more epochs"
                raise ConfigError(f"{out} holds the checkpoint of a run that has ended: {mend}")
            raise ConfigError(f"{out} holds a run that was begun: go on with it by --resume, or give another --out")
        return
    if name := next((name for name in ("config.json", "README.md") if _holds(folder, name)), None):
        raise ConfigError(f"{out} holds a {name} already, which the checkpoint's would replace: give another --out")


def require_same(out: str, beginning: Beginning) -> None:
    """Raises ConfigError where OUT holds epochs of a run that was begun with something else."""
    folder = open_folder(out)
    if not any(item.name.count("/") > 1 for item in folder.list(f"{STATE}/")):  # an epoch is a folder
        return
    try:
        before: Beginning = json.loads(folder.read(_BEGUN))
    except FileNotFoundError:  # of a radet that did not write it: gone on with, and compared from now on
        return
    if changed := [what for what in beginning | before if beginning.get(what) != before.get(what)]:
        others = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise ConfigError(
            f"--resume: since {out} was begun these have changed: {', '.join(changed[:_NAMED])}{others}; give what it "
            f"was begun with, or another --out"
        )


def write_beginning(out: str, beginning: Beginning) -> None:
    """For `require_same` of the runs that go on with it."""
    open_folder(out).write(_BEGUN, json.dumps(beginning, indent=1).encode())


def storage(out: str) -> dict[str, Any]:
    """Where Ray Train keeps its state, as its RunConfig takes it."""
    folder = open_folder(out)
    if isinstance(folder, LocalFolder):
        return {"storage_path": str(folder.root)}
    handler = pyarrow.fs.FSSpecHandler(s3fs.S3FileSystem())
    return {
        "storage_path": f"{folder.bucket}/{folder.prefix}".rstrip("/"),
        "storage_filesystem": pyarrow.fs.PyFileSystem(handler),
    }


def _digest(listed: Labelled) -> str:
    found = hashlib.sha256()
    for row in zip(listed.locations, listed.generated.tolist(), listed.sources, strict=True):
        found.update(json.dumps(row).encode())  # not the texts themselves: a name may be no UTF-8
    return found.hexdigest()


def _flat(prefix: str, document: dict[str, Any]) -> Beginning:
    """Nested keys joined by dots."""
    found: Beginning = {}
    for key, value in document.items():
        found |= _flat(f"{prefix}{key}.", value) if isinstance(value, dict) else {prefix + key: value}
    return found
