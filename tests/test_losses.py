"""The margin's hand examples, and its gradient against autograd."""

import pytest
import torch

from radet.losses import KAPPA, classification, contrastive_margin, drift_sums

LABEL = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
U = torch.tensor([0.02, 0.03, 0.04, 0.05, 0.01], dtype=torch.float64)


def test_hand_example() -> None:
    margin = contrastive_margin(drift_sums(U, LABEL), gamma=1.0)
    # u_r = 0.03, u_f = 0.03: generated pictures drift as much as real ones, so 1 + 1 - 1 = 1.
    assert margin.loss == pytest.approx(1.0)
    assert contrastive_margin(drift_sums(U, LABEL), gamma=0.0).loss == pytest.approx(0.0)
    assert contrastive_margin(drift_sums(U, LABEL), gamma=0.2, normalised=False).loss == pytest.approx(0.2)


def test_zero_once_generated_pictures_drift_twice_as_much() -> None:
    u = torch.tensor([0.01, 0.02, 0.01, 0.02, 0.02])
    margin = contrastive_margin(drift_sums(u, LABEL), gamma=1.0)
    assert margin.loss == pytest.approx(0.0, abs=1e-6)
    more = contrastive_margin(drift_sums(torch.tensor([0.01, 0.03, 0.01, 0.03, 0.03]), LABEL), gamma=1.0)
    plain = contrastive_margin(drift_sums(u, LABEL), gamma=0.005, normalised=False)
    for margin in (more, plain):
        assert (margin.loss, margin.by_real, margin.by_generated) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("scale", [1, 2e-5])  # real pictures drift less than KAPPA
@pytest.mark.parametrize("normalised", [True, False])
def test_the_gradient_is_autograds(normalised: bool, scale: float) -> None:
    u = (scale * U).requires_grad_()
    u_r, u_f = u[LABEL == 0].mean(), u[LABEL == 1].mean()
    loss = torch.relu(2 - u_f / u_r.clamp_min(KAPPA)) if normalised else torch.relu(1 - (u_f - u_r))
    (expected,) = torch.autograd.grad(loss, u)
    margin = contrastive_margin(drift_sums(scale * U, LABEL), gamma=1.0, normalised=normalised)
    assert margin.loss == pytest.approx(loss.item())
    torch.testing.assert_close(margin.pull(LABEL).double(), expected)


def test_parts_add_up_to_the_whole() -> None:
    parts = drift_sums(U[:2], LABEL[:2]) + drift_sums(U[2:], LABEL[2:])
    torch.testing.assert_close(parts, drift_sums(U, LABEL))


def test_a_batch_that_lacks_a_class_skips_the_term() -> None:
    for label in (torch.ones(5), torch.zeros(5)):
        margin = contrastive_margin(drift_sums(U, label), gamma=1.0)
        assert (margin.loss, margin.by_real, margin.by_generated) == (0.0, 0.0, 0.0)


def test_classification_weighs_the_branches() -> None:
    zero = torch.zeros(5)
    loss_B = classification(zero, {"semantic": zero, "lowlevel": zero}, LABEL, 0.25)
    torch.testing.assert_close(loss_B, torch.full((5,), 1.5 * 0.6931472))
