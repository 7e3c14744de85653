"""An encoder's blocks under torch.compile: on a GPU in bf16 elementwise work costs as much as the matrix products do.

One picture passes as two, because torch makes other kernels for one, so that rounding alone would drift (by 1.5e-4 of
CLIP ViT-B/16 in bf16 on an H200, 0.3 % of what real pictures do; 0 as two). For training, not for scoring: every node
would need a compiler, and those that have one would score otherwise.

B batch, N tokens, D width
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from radet.encoders import FrozenEncoder
from radet.errors import ConfigError


@contextmanager
def compiled(encoder: FrozenEncoder, size: int) -> Iterator[None]:
    """Meanwhile the blocks are compiled, for pictures of `size` pixels and any number of them.

    For transformers: their blocks are alike, so one is compiled for all of them, here and now, and once more where the
    first gradient is wanted; 2 to 10 seconds a graph on an H200's machine. (Of a convolutional tower, whose blocks
    differ, torch compiles eight and leaves the others.) Raises ConfigError where this machine cannot: Triton wants a C
    compiler and Python's headers.
    """
    for block in encoder.blocks:
        block.forward = _for_any_batch(block)
    try:
        pixels = torch.zeros((3, 3, size, size), device=encoder.mean.device)
        try:
            with torch.no_grad():
                encoder.embed(pixels)
        except RuntimeError as error:  # torch._dynamo's and its backends' all are
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(f"torch.compile does not work on this machine: {reason}") from error
        yield
    finally:
        for block in encoder.blocks:
            del block.forward


def _for_any_batch(block: nn.Module) -> Callable[..., Any]:
    # Deterministic: no kernel is chosen by the clock.
    forward = torch.compile(block.forward, options={"deterministic": True})

    def call(x_BND: Tensor, *rest: Any, **options: Any) -> Any:
        if len(x_BND) == 1:
            return _first(call(torch.cat([x_BND, x_BND]), *rest, **options))
        torch._dynamo.maybe_mark_dynamic(x_BND, 0)
        return forward(x_BND, *rest, **options)

    return call


def _first(output: Any) -> Any:
    return tuple(map(_first, output)) if isinstance(output, tuple) else None if output is None else output[:1]
