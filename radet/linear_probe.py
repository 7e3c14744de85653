"""Linear probes: one weight for each feature of the frozen encoder (and class), fitted to the optimum.

The baseline that every detector must beat (METHOD section 4), and where the trained one starts: a good read-out first,
then the parts around it, keeps what a pretrained encoder knows of pictures unlike the training data (Kumar et al.,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022).

N pictures of this rank, D features, K classes; K = 1 for real against generated
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from radet.tensors import Reduce

_ITERATIONS = 200
_TOLERANCE = 1e-6

#: Logits [N, K] -> the loss of each picture [N], and its slope by each logit [N, K].
_Loss = Callable[[Tensor], tuple[Tensor, Tensor]]


def fit_linear_probe(
    linear: nn.Linear, x_ND: Tensor, label_N: Tensor, *, penalty: float, reduce: Reduce = lambda _: None
) -> float:
    """Minimise mean BCE + penalty / 2 |w|^2 over the pictures of all ranks; returns the loss reached.

    `x_ND` is standardised; the bias is not penalised. Every rank calls this, if need be with N = 0, and ends with the
    same `linear`. By L-BFGS, whose every evaluation is one `reduce`.
    """
    label_N1 = label_N.to(x_ND.dtype)[:, None]

    def loss(logit_N1: Tensor) -> tuple[Tensor, Tensor]:
        loss_N1 = nn.functional.binary_cross_entropy_with_logits(logit_N1, label_N1, reduction="none")
        return loss_N1[:, 0], torch.sigmoid(logit_N1) - label_N1

    return _minimise(linear, x_ND, loss, penalty, reduce)


def fit_softmax_probe(
    linear: nn.Linear, x_ND: Tensor, class_N: Tensor, *, penalty: float, reduce: Reduce = lambda _: None
) -> float:
    """The same for K classes and cross-entropy; `class_N` counts from 0."""

    def loss(logit_NK: Tensor) -> tuple[Tensor, Tensor]:
        slope_NK = logit_NK.softmax(1) - nn.functional.one_hot(class_N, logit_NK.shape[1])
        return nn.functional.cross_entropy(logit_NK, class_N, reduction="none"), slope_NK

    return _minimise(linear, x_ND, loss, penalty, reduce)


def _minimise(linear: nn.Linear, x_ND: Tensor, loss: _Loss, penalty: float, reduce: Reduce) -> float:
    total = torch.tensor([len(x_ND)], dtype=torch.float64, device=x_ND.device)
    reduce(total)
    parameters = [linear.weight, linear.bias]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=_ITERATIONS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe"
    )

    @torch.no_grad()
    def evaluate() -> float:
        loss_N, slope_NK = loss(linear(x_ND))
        slopes = [(slope_NK.T @ x_ND).flatten(), slope_NK.double().sum(0), loss_N.double().sum()[None]]
        sums = torch.cat([slope.double() for slope in slopes])
        reduce(sums)
        sums = sums / total.clamp_min(1)
        weight_KD = linear.weight
        by_weight = sums[: weight_KD.numel()].reshape(weight_KD.shape)
        linear.weight.grad = (by_weight + penalty * weight_KD.double()).to(weight_KD.dtype)
        linear.bias.grad = sums[weight_KD.numel() : -1].to(weight_KD.dtype)
        return float(sums[-1] + penalty / 2 * weight_KD.double().square().sum())

    optimiser.step(evaluate)  # type: ignore[no-untyped-call]
    reached = evaluate()
    linear.weight.grad = linear.bias.grad = None
    return reached
