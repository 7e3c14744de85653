"""How many rows of a run have no score: what a night is judged by, however often it is sent."""

from typing import Any, NamedTuple

from pipelines.ledger import Ledger
from pipelines.storage import open_folder


class Unscored(NamedTuple):
    """`failed` of `rows` have no score."""

    rows: int
    failed: int


def unscored(out: str, manifest: dict[str, Any]) -> Unscored:
    """Of the committed run of `manifest`; one that met no new input is judged with the run before it.

    A scheduler sends a job again that ended badly. It then finds nothing to do, or tries again what may pass, and is no
    better for the first.
    """
    ledger = Ledger(open_folder(out), model_id=manifest["model_id"], rescore=False)
    found, same = Unscored(0, 0), {"model_id": manifest["model_id"], "source": manifest["source"]}
    for run in ledger.manifests():
        if run["run"] > manifest["run"] or any(run[name] != value for name, value in same.items()):
            continue
        scored, inputs = run["statuses"].get("ok", 0), run["inputs"]
        if inputs["new"] + inputs["resumed"] > inputs.get("again", 0):
            found = Unscored(run["rows"], run["rows"] - scored)
        else:
            found = Unscored(found.rows, max(0, found.failed - scored))
    return found
