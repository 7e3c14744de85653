import hashlib

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur as torchvision_blur

from radet.config import ProbeConfig
from radet.probes import build_probe, gaussian_blur, seeded_noise

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Z = torch.zeros(3, 8)


def probe(kind, **settings):
    return build_probe(ProbeConfig(kind=kind, **settings), 32, 8)


@pytest.mark.parametrize(("kind", "views"), [("none", 0), ("gaussian", 2), ("blur", 2), ("minder", 4), ("haar", 1)])
def test_views_are_pictures_in_range_and_a_function_of_the_picture(kind, views):
    x = torch.cat([X, torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    z = torch.zeros(5, 8)
    found = probe(kind, sigma=0.3, draws=2).views(x, z)
    assert len(found) == views
    for view, again in zip(found, probe(kind, sigma=0.3, draws=2).views(x, z), strict=True):
        assert view.shape == x.shape
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1
        assert torch.equal(view, again)
        assert not torch.equal(view[:3], X)


def test_groups_name_views_that_exist():
    assert probe("none").groups == ()
    assert probe("gaussian", draws=3).groups == (((0, 1), (0, 2), (0, 3)),)
    assert probe("blur").groups == (((1, 2),),)
    assert probe("minder", draws=2).groups == (((0, 1), (0, 2)), ((3, 4),))


def test_gaussian_adds_the_same_clipped_noise_to_every_picture():
    view = probe("gaussian", sigma=0.1, seed=5).views(X, Z)[0]
    noise = torch.from_numpy(seeded_noise(5, (1, 3, 32, 32)))
    assert torch.equal(view, (X + 0.1 * noise).clamp(0, 1))


def test_sigma_is_in_pixel_units():
    grey = torch.full((1, 3, 32, 32), 0.5)
    delta = probe("gaussian", sigma=0.05).views(grey, Z[:1])[0] - grey
    assert delta.std().item() == pytest.approx(0.05, rel=0.03)


def test_noise_is_the_pinned_one_on_every_machine():
    """The bytes, not the statistics: a change of them is another detector."""
    noise = seeded_noise(0, (2, 3, 8, 8))
    assert hashlib.sha256(noise.tobytes()).hexdigest()[:16] == "11063605c6819d9d"
    assert noise.dtype == np.float32
    assert noise.shape == (2, 3, 8, 8)


def test_noise_is_standard_normal():
    noise = seeded_noise(1, (100_000,)).astype(np.float64)
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(noise) > 1.96) == pytest.approx(0.05, abs=0.003)
    assert np.mean(noise**4) == pytest.approx(3, abs=0.1)
    assert not np.array_equal(noise, seeded_noise(2, (100_000,)))
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.01


def test_blur_is_the_gaussian_blur_that_everyone_means():
    blurred, sharp = probe("blur", blur_sigma=0.8, blur_size=5).views(X, Z)
    assert torch.allclose(blurred, torchvision_blur(X, [5, 5], [0.8, 0.8]), atol=1e-6)
    assert torch.allclose(sharp, (2 * X - blurred).clamp(0, 1))
    assert blurred.var() < X.var() < sharp.var()


def test_blur_leaves_a_flat_picture_flat_up_to_its_borders():
    flat = torch.full((1, 3, 32, 32), 0.25)
    kernel = probe("blur").kernel_T
    assert kernel.sum().item() == pytest.approx(1)
    assert torch.allclose(gaussian_blur(flat, kernel), flat)


def test_minder_is_noise_then_blur():
    settings = {"sigma": 0.1, "draws": 2, "seed": 3}
    minder = probe("minder", **settings).views(X, Z)
    parts = probe("gaussian", **settings).views(X, Z) + probe("blur", **settings).views(X, Z)
    assert all(torch.equal(a, b) for a, b in zip(minder, parts, strict=True))


def test_haar_takes_the_finest_details_and_nothing_else():
    (low,) = probe("haar").views(X, Z)
    blocks = X.unfold(2, 2, 2).unfold(3, 2, 2)
    assert torch.allclose(low[:, :, ::2, ::2], blocks.mean((-1, -2)))
    assert torch.equal(low[:, :, ::2, ::2], low[:, :, 1::2, 1::2])
    assert torch.allclose(probe("haar").views(low, Z)[0], low)
    odd = X[:, :, :31, :31]
    assert torch.equal(probe("haar").views(odd, Z)[0][:, :, 30], odd[:, :, 30])


def test_probes_have_nothing_to_store():
    """A noise pattern follows from its seed, so it is not in model.safetensors."""
    assert not probe("minder").state_dict()
