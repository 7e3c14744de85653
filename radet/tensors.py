"""Tensors as such: what identifies weights, how they are rounded, how ranks add up, how exactly they are convolved."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Adds a tensor up over all ranks, in place. Of one process: nothing to do.
Reduce = Callable[[Tensor], None]

#: Held by the thread that computes: cuDNN's settings are the process's, and hooks, by which radet.encoders reads a
#: tower, see everything that passes through it.
one_at_a_time = threading.RLock()


def tensor_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of tensors by sorted name, dtype, shape and bytes: independent of file format and of order. Hex."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def steady_convolutions(*, bf16: bool = False) -> Iterator[None]:
    """Meanwhile cuDNN convolves fp32 in fp32; unless told otherwise it takes TF32, which has 10 bits of mantissa. Other
    threads wait.

    `bf16`: without cuDNN, which may take another algorithm for another batch. With it a ViT-L/14 on an H200 drifted by
    1.8e-5 of rounding alone, 2 % of what noise pictures do; by torch's own convolution 0, at the same rate.
    """
    cudnn = torch.backends.cudnn
    with one_at_a_time, cudnn.flags(enabled=cudnn.enabled and not bf16, allow_tf32=False):
        yield


@torch.no_grad()
def round_int8(tower: nn.Module) -> None:
    """Round the matrices of a vision transformer to 8 bits a channel, in place: w -> s round(w / s), s = max|w| / 127
    over the weights of one output. What was rounded this way before stays as it is, bit for bit."""
    for name, weight in tower.named_parameters():
        if weight.ndim != 2 or "embedding" in name:
            continue
        inputs = 0 if name == "proj" else 1  # open_clip's `proj` multiplies from the right
        step = weight.abs().amax(inputs, keepdim=True) / 127
        weight.copy_((weight / step.clamp_min(1e-30)).round() * step)
