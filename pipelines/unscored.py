"""How many inputs of a run have no score: what a night is judged by, however often it is sent."""

from typing import Any, NamedTuple

from pipelines.ledger import Ledger
from pipelines.storage import open_folder


class Unscored(NamedTuple):
    """`failed` of `inputs` have no score."""

    inputs: int
    failed: int


def unscored(out: str, manifest: dict[str, Any]) -> Unscored:
    """Of the committed run of `manifest`; one that met no new input is judged with the run before it.

    A scheduler sends a job again that ended badly. The second run finds nothing to do, or tries again what may pass:
    finding nothing new makes the night no better. An input that was read and turned out to be unchanged counts among
    the inputs, since it has a score (in a list of web pages most are of that kind), but it is not new.
    """
    ledger = Ledger(open_folder(out), model_id=manifest["model_id"], rescore=False)
    found, same = Unscored(0, 0), {"model_id": manifest["model_id"], "source": manifest["source"]}
    for run in ledger.manifests():
        if run["run"] > manifest["run"] or any(run[name] != value for name, value in same.items()):
            continue
        scored = run["statuses"].get("ok", 0)
        if run["rows"] > run["inputs"].get("again", 0):
            found = Unscored(run["rows"] + run["work"]["same"], run["rows"] - scored)
        else:
            found = Unscored(found.inputs, max(0, found.failed - scored))
    return found
