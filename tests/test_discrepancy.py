import numpy as np
import pytest
import torch

from radet.discrepancy import FrozenGaussian, cosine_drift, ledoit_wolf, measure_drift
from radet.encoders import Look

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("angle", [1e-5, 1e-4, 1e-3, 0.1, 1.0, 3.0])
def test_cosine_drift_is_precise_for_tiny_angles(angle):
    """In fp32; the textbook 1 - a.b is already wrong by more than 5 % at 1e-3."""
    a = torch.tensor([[3.0, 0.0, 0.0]])
    b = torch.tensor([[np.cos(angle), 0.0, np.sin(angle)]]).float()
    exact = 2 * np.sin(angle / 2) ** 2
    assert cosine_drift(a, b).item() == pytest.approx(exact, rel=1e-4)


def test_cosine_drift_ignores_length_and_is_zero_only_for_equal_directions():
    a = torch.from_numpy(RNG.normal(size=(4, 16)))
    assert torch.equal(cosine_drift(a, a), torch.zeros(4).double())
    assert torch.allclose(cosine_drift(a, 7 * a), torch.zeros(4).double(), atol=1e-30)
    assert torch.allclose(cosine_drift(a, -a), torch.full((4,), 2.0).double())
    b = torch.from_numpy(RNG.normal(size=(4, 16)))
    assert torch.allclose(cosine_drift(a, b), 1 - torch.cosine_similarity(a, b))


def test_drift_is_the_mean_within_a_group_and_the_least_group_by_cosine():
    clean, far, near, b = (torch.from_numpy(RNG.normal(size=(5, 8))) for _ in range(4))
    z = [clean, far, clean + 0.1 * near, b, b + torch.linspace(0, 3, 5)[:, None] * far]
    drift = measure_drift([Look(one, (one[:, :3], 2 * one)) for one in z], (((0, 1), (0, 2)), ((3, 4),)))
    first = (cosine_drift(z[0], z[1]) + cosine_drift(z[0], z[2])) / 2
    second = cosine_drift(z[3], z[4])
    winner = second < first
    assert winner.any()
    assert not winner.all()
    assert torch.allclose(drift.cosine, torch.minimum(first, second))
    first_l2 = ((z[0] - z[1]).norm(dim=1) + (z[0] - z[2]).norm(dim=1)) / 2
    assert torch.allclose(drift.l2, torch.where(winner, (z[3] - z[4]).norm(dim=1), first_l2))
    first_delta = z[0] - (z[1] + z[2]) / 2
    assert torch.allclose(drift.delta, torch.where(winner[:, None], z[3] - z[4], first_delta))
    assert torch.allclose(drift.layers[:, 1], drift.cosine), "a layer's drift is that of the same group"
    short = [one[:, :3] for one in z]
    first_layer = (cosine_drift(short[0], short[1]) + cosine_drift(short[0], short[2])) / 2
    assert torch.allclose(drift.layers[:, 0], torch.where(winner, cosine_drift(short[3], short[4]), first_layer))


def test_drift_is_computed_in_fp64_whatever_the_encoder_gives():
    looks = [Look(torch.from_numpy(RNG.normal(size=(5, 8))).float(), ()) for _ in range(2)]
    exact = [Look(look.z.double(), ()) for look in looks]
    found, expected = (measure_drift(each, (((0, 1),),)) for each in (looks, exact))
    assert all(torch.equal(a, b) and a.dtype == torch.float64 for a, b in zip(found, expected, strict=True))


def correlated(n, d):
    return RNG.normal(size=(n, d)) @ RNG.normal(size=(d, d)) + 5


def test_ledoit_wolf_follows_its_definition():
    """Written out sample by sample, as in the paper's lemmas 3.2 to 3.4."""
    x = correlated(40, 6)
    c = x - x.mean(0)
    s = sum(np.outer(row, row) for row in c) / len(c)
    m = np.trace(s) / 6
    d2 = np.sum((s - m * np.eye(6)) ** 2) / 6
    b2 = min(d2, sum(np.sum((np.outer(row, row) - s) ** 2) / 6 for row in c) / len(c) ** 2)
    expected = b2 / d2 * m * np.eye(6) + (1 - b2 / d2) * s
    assert np.allclose(ledoit_wolf(x), expected)
    assert 0.001 < b2 / d2 < 0.999


def test_ledoit_wolf_is_invertible_with_fewer_samples_than_dimensions():
    assert np.linalg.eigvalsh(ledoit_wolf(correlated(5, 30))).min() > 0


def test_ledoit_wolf_shrinks_no_further_than_to_its_target():
    """The samples' covariance is all but isotropic, yet of as few samples as dimensions."""
    x = np.concatenate([np.eye(12), -np.eye(12)])
    x[0] *= 1.01
    found = ledoit_wolf(x)
    assert np.allclose(found, found.trace() / 12 * np.eye(12))


def test_mahalanobis_equals_the_explicit_inverse_where_the_spectrum_allows():
    """Six strong directions over an isotropic rest, fitted on many samples: what the compact form represents."""
    strong = np.linalg.qr(RNG.normal(size=(20, 6)))[0]
    x = RNG.normal(size=(20_000, 6)) * np.arange(9, 3, -1) @ strong.T + 0.5 * RNG.normal(size=(20_000, 20)) + 3
    gaussian = FrozenGaussian.fit(x, leading=6)
    test = torch.from_numpy(RNG.normal(size=(50, 20)) * 4)
    y = test.numpy() - x.mean(0)
    explicit = np.einsum("nd,de,ne->n", y, np.linalg.inv(ledoit_wolf(x)), y) / 20
    assert gaussian.mahalanobis(test).numpy() == pytest.approx(explicit, rel=0.05)


def test_mahalanobis_equals_the_explicit_inverse_of_what_it_stores():
    gaussian = FrozenGaussian.fit(correlated(200, 12), leading=5)
    v, values, tail = (t.double().numpy() for t in (gaussian.vectors_DK, gaussian.values_K, gaussian.tail))
    sigma = v @ np.diag(values) @ v.T + tail * (np.eye(12) - v @ v.T)
    test = torch.from_numpy(RNG.normal(size=(30, 12)))
    y = test.numpy() - gaussian.mean_D.double().numpy()
    explicit = np.einsum("nd,de,ne->n", y, np.linalg.inv(sigma), y) / 12
    assert gaussian.mahalanobis(test).numpy() == pytest.approx(explicit, rel=1e-5)


def test_mahalanobis_is_about_one_on_the_pictures_it_was_fitted_on():
    x = correlated(4000, 30)
    m2 = FrozenGaussian.fit(x, leading=29).mahalanobis(torch.from_numpy(x))
    assert m2.mean().item() == pytest.approx(1, abs=0.15)
    assert m2.min() >= 0


def test_mahalanobis_of_what_lies_along_the_leading_directions_is_no_less_than_nothing():
    """In fp32 those are a little longer or shorter than one."""
    longer = torch.tensor([[1.000001], [0.0]])
    gaussian = FrozenGaussian(torch.zeros(2), longer, torch.tensor([1e4]), torch.tensor(1e-6))
    assert gaussian.mahalanobis(torch.tensor([[1.0, 0.0]]).double()).item() == pytest.approx(1e-4 / 2, rel=1e-3)


def test_mahalanobis_has_no_unit():
    x, test = correlated(300, 10), RNG.normal(size=(5, 10))
    metres = FrozenGaussian.fit(x, leading=4).mahalanobis(torch.from_numpy(test))
    millimetres = FrozenGaussian.fit(1000 * x, leading=4).mahalanobis(torch.from_numpy(1000 * test))
    assert torch.allclose(metres, millimetres, rtol=1e-4)


def test_fit_is_deterministic_in_sign_and_small_on_disk():
    x = correlated(50, 256)
    gaussian, again = FrozenGaussian.fit(x), FrozenGaussian.fit(x.copy())
    for key, value in gaussian.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        assert value.dtype == torch.float32
    assert sum(value.nbytes for value in gaussian.state_dict().values()) == 4 * (256 + 256 * 64 + 64 + 1)
    largest = gaussian.vectors_DK.gather(0, gaussian.vectors_DK.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
