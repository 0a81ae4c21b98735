"""The thesis's networks, counted; the family at every size."""

import pytest
import torch

from core.plan import count_parameters
from gan.networks import Critic, Generator
from gan.settings import SIZES


@pytest.mark.parametrize(
    ("z_dim", "parameters"), [(32, 11_704_737), (64, 12_229_025), (128, 13_277_601)]
)
def test_the_generator_has_the_thesis_parameters(z_dim: int, parameters: int) -> None:
    assert count_parameters(Generator(z_dim=z_dim)) == parameters


def test_the_critic_has_the_thesis_parameters() -> None:
    assert count_parameters(Critic()) == 2_802_929


def test_the_thesis_layers_at_256() -> None:
    """Sides and channels after each stage, as the thesis's table gives them."""
    stages = []
    generator, critic = Generator(), Critic()
    for layer in [*generator.layers, *critic.layers]:
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, out: stages.append(tuple(out.shape[1:])))
    with torch.no_grad():
        critic(generator(torch.randn(1, 64)))
    assert stages[:7] == [
        (1024, 4, 4),
        (512, 8, 8),
        (256, 16, 16),
        (128, 32, 32),
        (64, 64, 64),
        (32, 128, 128),
        (1, 256, 256),
    ]
    assert stages[7:] == [
        (16, 128, 128),
        (32, 64, 64),
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (1, 1, 1),
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_gives_images_and_scores(size: int, channels: int) -> None:
    generator = Generator(z_dim=5, size=size, channels=channels, width=2)
    critic = Critic(size=size, channels=channels, width=2)
    with torch.no_grad():
        images = generator(torch.randn(3, 5))
        assert images.shape == (3, channels, size, size)
        assert critic(images).shape == (3,)
    assert images.min() > 0
    assert images.max() < 1


def test_the_critic_judges_each_image_alone() -> None:
    torch.manual_seed(0)
    critic, images = Critic(size=32), torch.rand(4, 1, 32, 32)
    together = critic(images)
    alone = torch.cat([critic(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
