"""What `user_config` changes while the service runs: limits of the front, batches and thresholds of the scorer."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from radet.errors import ConfigError

_MIB = 1 << 20
_PIXELS = 100_000_000  # radet.images.Limits, which costs torch to import, has the same two


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, config: dict[str, Any] | None) -> Any:
        """The settings of a user_config. Raises ConfigError that names the key."""
        try:
            return cls.model_validate(config or {})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"user_config {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class FrontSettings(_Settings):
    """Limits of one front (the process that reads, decodes and answers)."""

    max_bytes: Annotated[int, Field(ge=1024, le=64 * _MIB)] = 32 * _MIB  # of one picture
    max_pixels: Annotated[int, Field(ge=1, le=_PIXELS)] = _PIXELS
    max_request_bytes: Annotated[int, Field(ge=1024)] = 96 * _MIB  # of a whole request, base64 and all
    max_items: Annotated[int, Field(ge=1, le=1024)] = 64  # of a batch
    max_in_flight: Annotated[int, Field(ge=1)] = 64  # requests at once; more are refused
    max_in_flight_bytes: Annotated[int, Field(ge=1024)] = 512 * _MIB
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0  # for a body to arrive
    score_timeout_s: Annotated[float, Field(gt=0)] = 30.0  # for a picture to be scored
    url_timeout_s: Annotated[float, Field(gt=0)] = 10.0  # for a url to be read, redirects and all
    images_per_minute: Annotated[float, Field(gt=0)] | None = None  # of each API key, unless the key has its own
    require_calibration: bool = True  # /readyz is 503 for a checkpoint that gives no probability


class Band(BaseModel):
    """Where verdicts change, on p_generated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    real_below: Annotated[float, Field(ge=0, le=1)]
    generated_above: Annotated[float, Field(ge=0, le=1)]


class ScorerSettings(_Settings):
    """How a scorer batches, and its thresholds where they are not the checkpoint's own."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 8
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 4.0
    band: Band | None = None


class ServiceSettings(_Settings):
    """Of a replica that is front and scorer in one."""

    front: FrontSettings = FrontSettings()
    scorer: ScorerSettings = ScorerSettings(max_batch_size=2)
