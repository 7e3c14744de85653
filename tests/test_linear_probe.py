"""The linear probe is the optimum that a library finds, however the pictures lie on ranks."""

import threading

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from radet.linear_probe import fit_linear_probe

N, D = 120, 30


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(N, D, generator=generator)
    label_N = (x_ND[:, 0] + 0.5 * torch.randn(N, generator=generator) > 0.3).float()
    return x_ND, label_N


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_it_is_the_optimum(penalty: float) -> None:
    x_ND, label_N = data()
    linear = nn.Linear(D, 1).requires_grad_(False)
    nn.init.zeros_(linear.weight)
    fit_linear_probe(linear, x_ND, label_N, penalty=penalty)
    library = LogisticRegression(C=1 / (penalty * N), tol=1e-8, max_iter=1000).fit(x_ND.numpy(), label_N.numpy())
    np.testing.assert_allclose(linear.weight[0].numpy(), library.coef_[0], atol=2e-3)
    np.testing.assert_allclose(linear.bias.item(), library.intercept_[0], atol=2e-3)
    assert linear.weight.grad is None


class _Sum:
    """Adds tensors up over threads, as torch.distributed does over processes."""

    def __init__(self, world: int) -> None:
        self._tensors: list[torch.Tensor | None] = [None] * world
        self._barrier = threading.Barrier(world, timeout=30)

    def of(self, rank: int, tensor: torch.Tensor) -> None:
        self._tensors[rank] = tensor.clone()
        self._barrier.wait()
        total = torch.stack([part for part in self._tensors if part is not None]).sum(0)
        self._barrier.wait()
        tensor.copy_(total)


def test_ranks_change_nothing_not_even_one_without_pictures() -> None:
    x_ND, label_N = data()
    shares = [slice(0, 50), slice(50, N), slice(0, 0)]
    linears = [nn.Linear(D, 1).requires_grad_(False) for _ in range(len(shares) + 1)]
    for linear in linears:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    losses: dict[int, float] = {}
    sums = _Sum(len(shares))

    def rank(number: int) -> None:
        share = shares[number]
        losses[number] = fit_linear_probe(
            linears[number], x_ND[share], label_N[share], penalty=0.1, reduce=lambda tensor: sums.of(number, tensor)
        )

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = fit_linear_probe(linears[-1], x_ND, label_N, penalty=0.1)
    assert losses == pytest.approx(dict.fromkeys(range(len(shares)), alone), rel=1e-6)
    assert torch.equal(linears[0].weight, linears[1].weight)
    assert torch.equal(linears[0].weight, linears[2].weight)
    np.testing.assert_allclose(linears[0].weight.numpy(), linears[-1].weight.numpy(), atol=1e-4)
