"""The same detector behind LitServe, for benchmarks.serving_peers:  python -m benchmarks.litserve_server --port 8001

LitServe (Apache-2.0, not a dependency: pip install litserve) as its documentation has it: dynamic batches (or none,
with a --batch-size of 1), a worker a core or --workers on a GPU, the picture as base64 in JSON. It answers on the path
and with the field of radet's own endpoint, so the client cannot tell them apart; what it lacks is everything else
(statuses, limits, keys, metrics, explanations).
"""

import base64
from typing import Any

import litserve
import numpy as np

from benchmarks.command import new_parser, run_main
from pipelines.process import cores, tune
from radet import Detector
from radet.images import Pixels, decode_picture, read_header


class Scoring(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._model = model

    def setup(self, device: str) -> None:
        tune()
        self._detector = Detector.from_pretrained(self._model, device=device)

    def decode_request(self, request: dict[str, str]) -> Pixels:
        data = base64.b64decode(request["image"])
        return decode_picture(data, read_header(data), self._detector.config.crop).crop

    def predict(self, crops: list[Pixels] | Pixels) -> list[float] | float:
        """A batch, or with a batch size of one LitServe's single input."""
        crops_BHWC = np.asarray(crops)
        logit = self._detector.evidence(crops_BHWC if crops_BHWC.ndim == 4 else crops_BHWC[None]).logit
        assert logit is not None
        return [float(value) for value in logit] if crops_BHWC.ndim == 4 else float(logit[0])

    def encode_response(self, logit: float) -> dict[str, float]:
        return {"logit": logit}


def main() -> None:
    parser = new_parser(__doc__, save=False)
    parser.add_argument("--model", default="radet-lite", help="as for radet serve")
    parser.add_argument("--port", type=int, default=8001, help="to listen at")
    parser.add_argument("--batch-size", type=int, default=2, help="pictures at once; 1: no batches")
    parser.add_argument("--accelerator", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=cores(), help="processes")
    asked = parser.parse_args()
    wait_s = 0.005 if asked.batch_size > 1 else 0.0
    api = Scoring(asked.model, max_batch_size=asked.batch_size, batch_timeout=wait_s, api_path="/v1/score")
    server = litserve.LitServer(api, accelerator=asked.accelerator, workers_per_device=asked.workers, timeout=60)
    server.run(host="127.0.0.1", port=asked.port, generate_client_file=False)


if __name__ == "__main__":
    run_main(main)
