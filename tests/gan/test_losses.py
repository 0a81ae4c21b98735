"""WGAN-GP's losses by hand."""

import pytest
import torch

from gan.losses import (
    compiled_penalty,
    critic_loss,
    generator_loss,
    gradient_penalty,
    mix,
    score_gap,
)
from gan.networks import Critic


def test_score_gap_and_losses_by_hand() -> None:
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0, 6.0])
    gap = score_gap(real, fake)
    assert gap.item() == -1.0  # 3 - 4
    assert critic_loss(gap, torch.tensor(0.25), 10.0).item() == 1.5
    assert generator_loss(fake).item() == -3.0


def test_penalty_of_a_linear_critic() -> None:
    """The gradient of w . x is w everywhere: norm 5, penalty (5 - 1)^2 = 16."""
    slope = torch.zeros(1, 4, 4)
    slope[0, 0, 0], slope[0, 2, 3] = 3.0, 4.0
    penalty = gradient_penalty(
        lambda x: (x * slope).flatten(1).sum(1),
        torch.rand(6, 1, 4, 4),
        torch.rand(6, 1, 4, 4),
        torch.rand(6),
    )
    assert penalty.item() == pytest.approx(16.0, rel=1e-6)


def test_penalty_is_taken_image_by_image_between_real_and_fake() -> None:
    """Critic |x|^2 / 2 has gradient x: with one pixel the norm is the mixed pixel itself."""
    real, fake = torch.full((2, 1, 1, 1), 4.0), torch.full((2, 1, 1, 1), 2.0)
    alpha = torch.tensor([0.0, 0.5])  # mixed pixels: fake 2 alone; 3
    penalty = gradient_penalty(lambda x: x.flatten(1).square().sum(1) / 2, real, fake, alpha)
    assert penalty.item() == pytest.approx(((2 - 1) ** 2 + (3 - 1) ** 2) / 2)


def test_penalty_differentiates_twice() -> None:
    """Critic s * x: penalty (s - 1)^2, so its derivative by s is 2 (s - 1) = 4 at s = 3."""
    s = torch.tensor(3.0, requires_grad=True)
    penalty = gradient_penalty(lambda x: s * x.flatten(), *torch.rand(2, 5, 1, 1, 1), torch.rand(5))
    penalty.backward()
    assert s.grad is not None
    assert s.grad.item() == pytest.approx(4.0, rel=1e-5)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.parametrize("classes", [0, 3])
def test_the_compiled_penalty_has_eager_modes_gradients(classes: int) -> None:
    torch.manual_seed(0)
    critic = Critic(size=32, width=4, classes=classes)
    real, fake, alpha = torch.rand(5, 1, 32, 32), torch.rand(5, 1, 32, 32), torch.rand(5)
    labels = torch.arange(5) % classes if classes else None
    penalty = gradient_penalty(lambda x: critic(x, labels), real, fake, alpha)
    penalty.backward()
    own = dict(critic.named_parameters())
    gradients, found = compiled_penalty(critic)(own, mix(real, fake, alpha), labels)
    torch.testing.assert_close(found, penalty)
    for name, parameter in own.items():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], wanted, atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-3
