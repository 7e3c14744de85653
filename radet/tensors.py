"""Tensors as such: what identifies weights, how they are rounded, how ranks add up, how exactly fp32 is computed."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: Adds a tensor up over all ranks, in place. Of one process: nothing to do.
Reduce = Callable[[Tensor], None]

#: Held by the thread that computes: torch's settings are the process's, and hooks, by which radet.encoders reads a
#: tower, see everything that passes through it.
one_at_a_time = threading.RLock()


def _forked() -> None:
    one_at_a_time.release()
    torch.set_num_threads(1)  # its threads stayed with the parent: a child that counts on them waits forever


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=one_at_a_time.acquire, after_in_parent=one_at_a_time.release, after_in_child=_forked)


def tensor_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of tensors by sorted name, dtype, shape and bytes: independent of file format and of order. Hex."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def steady_arithmetic(*, bf16: bool = False) -> Iterator[None]:
    """Meanwhile fp32 is computed in fp32, whatever this process has set, and by no algorithm that was chosen by the
    clock. TF32, which cuDNN takes unless told otherwise, has 10 bits of mantissa. Other threads wait.

    `bf16`: without cuDNN, which may take another algorithm for another batch. With it a ViT-L/14 on an H200 drifted by
    1.8e-5 of rounding alone, 2 % of what noise pictures do; by torch's own convolution 0, at the same rate.
    """
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    kinds = (cudnn.conv, backends.cuda.matmul, mkldnn.conv, mkldnn.matmul)
    before: list[tuple[Any, str, object]] = []
    with one_at_a_time:
        wanted = [(cudnn, "enabled", cudnn.enabled and not bf16), (cudnn, "benchmark", False)]
        wanted += [(cudnn, "deterministic", False), *((kind, "fp32_precision", "ieee") for kind in kinds)]
        try:
            for owner, name, value in wanted:
                was = getattr(owner, name)
                if was not in {value, "none"}:  # none is torch's own, which is exact
                    before.append((owner, name, was))
                    setattr(owner, name, value)
            yield
        finally:
            for owner, name, was in before:
                setattr(owner, name, was)


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Meanwhile new tensors are fp32 and on the CPU, whatever this process has set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


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
