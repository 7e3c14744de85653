"""The score of one image: one Parquet row of a run, one JSON object of an answer, one result in Python."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

#: Changes when a field is added, removed, renamed or given another meaning.
SCHEMA_VERSION = 2

Verdict = Literal["real", "uncertain", "generated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What radet says of one image. The field names are the same in Parquet, JSON and Python.

    A row whose `status` is not "ok" has an `error` and no evidence; what was learned of the image before the error
    (bytes, sha256, size, format) is kept.
    """

    id: str  # the caller's own; where none was given, the uri as it was listed
    uri: str  # where it lies, a path or URL; of bytes a name: "#3", or "<container>#<member>"
    sha256: str | None = None  # of the raw bytes, hex
    phash: str | None = None  # 64-bit perceptual hash, hex
    status: str = "ok"  # "ok" or a code of radet.errors
    error: str | None = None  # one sentence, for people
    width: int | None = None  # pixels, as displayed (after EXIF rotation)
    height: int | None = None
    format: str | None = None  # JPEG, PNG, WEBP ...
    bytes: int | None = None  # size of the raw data
    digital_source_type: str | None = None  # what the file says of its origin, unverified (radet.provenance)
    logit: float | None = None  # > 0 leans to generated
    p_generated: float | None = None  # calibrated, in [0, 1]; null while the checkpoint is uncalibrated
    verdict: Verdict | None = None  # null while the checkpoint is uncalibrated
    drift_cosine: float | None = None  # 1 - cos(z, z'), in [0, 2]
    drift_l2: float | None = None  # ||z - z'||, >= 0
    drift_mahalanobis: float | None = None  # (D-mu)' (S+lambda I)^-1 (D-mu) / dim, >= 0; about 1 for real images
    logit_semantic: float | None = None  # null where the checkpoint has no such branch
    logit_discrepancy: float | None = None
    logit_lowlevel: float | None = None
    generator: str | None = None  # family, or "unknown"; null for verdict "real", and without attribution
    model_id: str
    scored_at: datetime  # UTC

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: `scored_at` as ISO 8601 with Z, and the schema's version."""
        stamp = self.scored_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return asdict(self) | {"scored_at": stamp, "schema_version": SCHEMA_VERSION}
