"""The linear probe: one weight for each feature of the frozen encoder, fitted to its optimum.

The baseline that every detector must beat (METHOD section 4), and where the trained one starts: a good read-out first,
then the parts around it, keeps what a pretrained encoder knows of pictures unlike the training data (Kumar et al.,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022).

N pictures of this rank, D features
"""

import torch
from torch import Tensor, nn

from radet.training import Reduce

_ITERATIONS = 200
_TOLERANCE = 1e-6


def fit_linear_probe(
    linear: nn.Linear, x_ND: Tensor, label_N: Tensor, *, penalty: float, reduce: Reduce = lambda _: None
) -> float:
    """Minimise mean BCE + penalty / 2 |w|^2 over the pictures of all ranks; returns the loss reached.

    `x_ND` is standardised; the bias is not penalised. Every rank calls this, if need be with N = 0, and ends with the
    same `linear`. By L-BFGS, whose every evaluation is one `reduce`.
    """
    total = torch.tensor([len(label_N)], dtype=torch.float64, device=x_ND.device)
    reduce(total)
    label_N = label_N.to(x_ND.dtype)
    parameters = [linear.weight, linear.bias]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=_ITERATIONS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe"
    )

    @torch.no_grad()
    def evaluate() -> float:
        logit_N = linear(x_ND)[:, 0]
        loss_N = nn.functional.binary_cross_entropy_with_logits(logit_N, label_N, reduction="none")
        slope_N = torch.sigmoid(logit_N) - label_N
        sums = torch.cat([(slope_N @ x_ND).double(), slope_N.double().sum()[None], loss_N.double().sum()[None]])
        reduce(sums)
        sums = sums / total
        weight_D = linear.weight[0]
        linear.weight.grad = (sums[:-2] + penalty * weight_D.double()).to(weight_D.dtype)[None]
        linear.bias.grad = sums[-2:-1].to(weight_D.dtype)
        return float(sums[-1] + penalty / 2 * weight_D.double().square().sum())

    optimiser.step(evaluate)  # type: ignore[no-untyped-call]
    reached = evaluate()
    linear.weight.grad = linear.bias.grad = None
    return reached
