"""The guide's network and its three losses, by hand and against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from vae import losses
from vae.networks import Vae
from vae.settings import VaeSettings


@pytest.mark.parametrize(
    ("img_size", "depth", "in_channels"), [(128, 4, 3), (64, 4, 1), (32, 3, 1), (48, 2, 3)]
)
def test_forward_gives_reconstruction_mu_and_logvar(
    img_size: int, depth: int, in_channels: int
) -> None:
    model = Vae(img_size, 10, in_channels, depth, width=4)
    images = torch.rand(2, in_channels, img_size, img_size) * 2 - 1
    reconstruction, mu, logvar = model(images, torch.randn(2, 10))
    assert reconstruction.shape == images.shape
    assert mu.shape == logvar.shape == (2, 10)
    assert reconstruction.abs().max() < 1


def test_the_guides_network() -> None:
    """Convolutions of kernel 4, stride 2, padding 1, as many up as down; Tanh last."""
    with torch.device("meta"):
        model = Vae()
    down = [layer for layer in model.encoder if isinstance(layer, torch.nn.Conv2d)]
    up = [layer for layer in model.decoder if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert len(down) == len(up) == 4
    for layer in [*down, *up]:
        assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))
    assert model.fc_mu.out_features == model.fc_logvar.out_features == 750
    assert (model.fc_decode.in_features, up[-1].out_channels) == (750, 3)
    assert isinstance(model.decoder[-1], torch.nn.Tanh)


def test_latents_are_mu_plus_sigma_noise() -> None:
    torch.manual_seed(0)
    model = Vae(16, 3, 1, depth=2, width=2)
    images, noise = torch.rand(2, 1, 16, 16), torch.randn(2, 3)
    reconstruction, mu, logvar = model(images, noise)
    assert torch.allclose(reconstruction, model.decode(mu + logvar.exp().sqrt() * noise), atol=1e-6)


def test_reconstruction_by_hand() -> None:
    one, other = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, -1.0]]]])
    assert losses.reconstruction_loss(one, other).item() == pytest.approx((0.25 + 4) / 2)


def test_kl_equals_torch_distributions() -> None:
    torch.manual_seed(0)
    mu, logvar = torch.randn(4, 6), torch.randn(4, 6)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).mean()
    assert losses.kl_divergence(mu, logvar).item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0


def test_sharpness_by_hand() -> None:
    """One bright pixel: its Laplacian is 1 in four places, -4 in the middle, 0 in four corners."""
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1.0
    assert losses.sharpness(image).item() == pytest.approx(20 / 9)  # mean square; the mean is 0
    ramp = torch.arange(36.0).view(1, 1, 6, 6)  # linear in both directions: no edge
    assert losses.sharpness(ramp).item() == pytest.approx(0.0, abs=1e-6)


def test_blur_loss_is_0_for_the_image_itself_and_1_for_a_flat_one() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 2, 16, 16) * 2 - 1
    assert losses.blur_loss(images, images).item() == 0
    assert losses.blur_loss(torch.zeros_like(images), images).item() == pytest.approx(1, abs=1e-3)
    assert losses.blur_loss(1.5 * images, images).item() == 0  # sharper earns nothing
    half = losses.blur_loss(0.5**0.5 * images, images).item()  # half the variance
    assert half == pytest.approx(0.5, abs=1e-3)
    softened = F.avg_pool2d(images, 3, stride=1, padding=1)
    assert 0.5 < losses.blur_loss(softened, images).item() < 1


def test_the_sum_by_hand() -> None:
    terms = (torch.tensor(0.5), torch.tensor(2.0), torch.tensor(0.25))
    assert losses.vae_loss(terms, (5.0, 1.0, 10.0)).item() == 7.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img_size": 100}, "divisible by 2\\^depth, 16"),
        ({"in_channels": 2}, "in_channels 2"),
        ({"num_epochs": None}, "--steps or --num_epochs"),
        ({"beta": -1.0}, "beta"),
    ],
)
def test_contradictions_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VaeSettings(data="x", run_dir="y", **changes)
