"""The heads: silent before they are trained, standardised by real pictures, and a sum of what the branches say."""

import pytest
import torch

from radet.branches import Heads, Seen, Statistics
from radet.config import AttributionConfig, HeadsConfig

D, TOKENS, S, SIZE = 6, (4, 3), 5, 32
FEATURES = D + sum(TOKENS)
NAMES = ("semantic", "discrepancy", "lowlevel")


@pytest.fixture
def heads() -> Heads:
    torch.manual_seed(0)
    config = HeadsConfig(
        branches=NAMES, layers=(0, 1), token_dims=TOKENS, scalars=S, hidden=8, lowlevel_width=8, dropout=0.5,
        attribution=AttributionConfig(families=("a", "b")),
    )  # fmt: skip
    return Heads(config, D).eval()


def seen(count: int = 3) -> Seen:
    generator = torch.Generator().manual_seed(1)
    sizes = (3, SIZE, SIZE), (FEATURES,), (S,), (D,)
    return Seen(*(torch.rand((count, *size), generator=generator) for size in sizes))


def test_an_untrained_detector_says_nothing(heads: Heads) -> None:
    answer = heads(seen())
    assert not answer.fused.any()
    assert all(not answer.branches[name].any() for name in NAMES)
    assert not answer.families.any()
    fitted = {name for name, parameter in heads.named_parameters() if not parameter.requires_grad}
    assert fitted == {f"{part}.{kind}" for part in ("branches.semantic.linear", "attribution.linear")
                      for kind in ("weight", "bias")}  # fmt: skip


def test_each_standardises_by_its_own_statistics_of_real_pictures(heads: Heads) -> None:
    features, scalars = 2 + 3 * torch.rand(50, FEATURES), 5 * torch.rand(50, S) - 7
    heads.freeze(Statistics(features, scalars, torch.tensor([0.1, 0.2, 0.9])))
    expected = {"branches.semantic": features, "branches.discrepancy": scalars, "attribution": features}
    for name, real in expected.items():
        standard = heads.get_submodule(f"{name}.standard")
        torch.testing.assert_close(standard.mean, real.mean(0))
        torch.testing.assert_close(standard.std, real.std(0))
    assert heads.branches["lowlevel"].scale.item() == pytest.approx(0.2)  # the median


def test_the_fused_logit_starts_as_the_plain_sum_and_only_training_drops_anything(heads: Heads) -> None:
    with torch.no_grad():
        for parameter in heads.branches.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        once, again = heads(seen()), heads(seen())
        torch.testing.assert_close(once.fused, sum(once.branches.values()), rtol=1e-3, atol=1e-4)
        heads.train()
        trained = [heads(seen()).branches for _ in range(2)]
    for name in NAMES:
        assert once.branches[name].any()
        assert torch.equal(once.branches[name], again.branches[name])
        assert not torch.equal(trained[0][name], trained[1][name])
