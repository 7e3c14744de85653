"""The crop policy: which pixels of a picture the detector sees. Part of a checkpoint, so it imports no image library.

Drivers and submitters read checkpoints without computing anything; this file costs them nothing.
"""

from dataclasses import dataclass

from radet.errors import ModelError

#: The one decoding path of this version (radet.images). Another decoder gives other pixels, so it needs another name,
#: and with it comes another model id.
DECODER = "simplejpeg+pillow-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPolicy:
    """Resize, then cut the square centre. Raises ModelError("config_invalid") for values that cannot be.

    `resize`   the shorter side after resizing, pixels, >= `size`; None keeps the native resolution and enlarges only
               pictures whose shorter side is below `size`
    `size`     side of the square centre crop, pixels
    `decoder`  the decoding path that the checkpoint was trained with; only `DECODER` exists
    """

    resize: int | None = 256
    size: int = 224
    decoder: str = DECODER

    def __post_init__(self) -> None:
        # type(), not isinstance(): True is an int to Python and a mistake in a config file.
        if type(self.size) is not int or not 1 <= self.size <= 4096:
            raise ModelError("config_invalid", f"crop.size must be an integer from 1 to 4096, not {self.size!r}")
        if self.resize is not None and (type(self.resize) is not int or not self.size <= self.resize <= 4096):
            raise ModelError(
                "config_invalid",
                f"crop.resize must be null or an integer from crop.size ({self.size}) to 4096, not {self.resize!r}",
            )
        if self.decoder != DECODER:
            raise ModelError(
                "config_invalid",
                f"crop.decoder is {self.decoder!r}; this version of radet decodes with {DECODER!r} only",
            )
