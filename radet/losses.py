"""What the detector is trained on: L = BCE(fused) + 1/2 sum_b BCE(branch_b) + lambda L_ra  (METHOD section 3).

The contrastive margin L_ra is a function of two means over the GLOBAL batch, u_r and u_f, the mean cosine drifts of
real and generated pictures. Its gradient by one picture's drift is therefore a constant of that picture's class,

    dL_ra / du_i = (dL_ra / du_class) / n_class

so a step over several ranks and micro-batches needs no gradient through a gather: sum u and n everywhere, take the two
constants, and add constant * u_i to each picture's loss. That is exact, not an approximation.

B batch
"""

from dataclasses import dataclass

import torch
from torch import Tensor

KAPPA = 1e-6  # floor of the real drift in the normalised margin


@dataclass(frozen=True, slots=True)
class Margin:
    """L_ra of one global batch and its gradient by each picture's drift. All zero where a class is absent."""

    loss: float
    by_real: float
    by_generated: float

    def pull(self, label_B: Tensor) -> Tensor:
        """dL_ra / du of each picture, [B]; `label_B` is 1 for generated pictures and 0 for real ones."""
        return torch.where(label_B > 0.5, self.by_generated, self.by_real)


def drift_sums(u_B: Tensor, label_B: Tensor) -> Tensor:
    """[sum of u over real, number of real, sum of u over generated, number of generated], fp64 [4].

    What ranks and micro-batches add up before `contrastive_margin`.
    """
    u_B, generated_B = u_B.detach().double(), (label_B > 0.5).double()
    real_B = 1 - generated_B
    return torch.stack([(u_B * real_B).sum(), real_B.sum(), (u_B * generated_B).sum(), generated_B.sum()])


def contrastive_margin(sums: Tensor, gamma: float, *, normalised: bool = True) -> Margin:
    """The margin from the sums of a global batch.

    normalised: L_ra = relu(1 + gamma - u_f / max(u_r, kappa)): zero once generated pictures drift (1 + gamma) times as
    much as real ones (METHOD section 3; the paper's recommended form).
    plain: L_ra = relu(gamma - (u_f - u_r)).
    """
    sum_r, n_r, sum_f, n_f = sums.tolist()
    if n_r == 0 or n_f == 0:
        return Margin(0.0, 0.0, 0.0)
    u_r, u_f = sum_r / n_r, sum_f / n_f
    if not normalised:
        loss = gamma - (u_f - u_r)
        return Margin(loss, 1 / n_r, -1 / n_f) if loss > 0 else Margin(0.0, 0.0, 0.0)
    floor = max(u_r, KAPPA)
    loss = 1 + gamma - u_f / floor
    if loss <= 0:
        return Margin(0.0, 0.0, 0.0)
    by_real = u_f / floor**2 / n_r if u_r > KAPPA else 0.0
    return Margin(loss, by_real, -1 / floor / n_f)


def classification(fused_B: Tensor, branches: dict[str, Tensor], label_B: Tensor, branch_weight: float) -> Tensor:
    """BCE(fused) + branch_weight * sum_b BCE(branch_b) of each picture, [B].

    `fused_B` and each of `branches` are logits, [B]; `label_B` is 1 for generated pictures and 0 for real ones.
    """
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    label_B = label_B.to(fused_B.dtype)
    loss_B = bce(fused_B, label_B, reduction="none")
    for logit_B in branches.values():
        loss_B = loss_B + branch_weight * bce(logit_B, label_B, reduction="none")
    return loss_B
