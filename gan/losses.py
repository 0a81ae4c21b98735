"""The losses of WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028) and of the course's GANs
(Goodfellow et al. 2014, arXiv 1406.2661). Tensors in, numbers out."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, grad_and_value


def score_gap(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """mean critic(fake) - mean critic(real): the critic's loss but for the penalty.

    Its negative estimates the Wasserstein distance, up to the critic's Lipschitz constant.
    """
    return fake_scores.mean() - real_scores.mean()


def gradient_penalty(
    critic: Callable[[torch.Tensor], torch.Tensor],
    real: torch.Tensor,
    fake: torch.Tensor,
    alpha: torch.Tensor,
) -> torch.Tensor:
    """mean (||grad critic(mixed)||_2 - 1)^2 at mixed = real * alpha + fake * (1 - alpha).

    Differentiable in the critic's parameters. `critic` must not mix the images of a batch.

    Args:
        real, fake: N x C x H x W.
        alpha: N numbers from U(0, 1), one per image.
    """
    mixed = mix(real, fake, alpha).requires_grad_()
    # The sum's gradient holds, image by image, the gradient of that image's own score.
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return distance_from_one(gradient)


def compiled_penalty(critic: nn.Module) -> Callable[..., tuple[dict[str, Any], torch.Tensor]]:
    """`gradient_penalty` and its gradients by the critic's parameters, as one compiled function of
    (parameters by name, mixed images, labels) -> (gradients by name, penalty).

    torch.compile takes no autograd.grad with create_graph; it does take nested torch.func.grad.
    """

    def penalty(
        parameters: dict[str, torch.Tensor], mixed: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        def total(images: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = functional_call(critic, parameters, (images, labels))
            return scores.sum()

        return distance_from_one(grad(total)(mixed))

    compiled: Callable[..., Any] = torch.compile(grad_and_value(penalty))
    return compiled


def mix(real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """A point between each real image and its fake, N x C x H x W."""
    alpha = alpha.view(-1, 1, 1, 1)
    return (real * alpha + fake * (1 - alpha)).detach()


def distance_from_one(gradient: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the images' gradient norms from 1."""
    norms = gradient.flatten(1).norm(2, dim=1)  # N
    return (norms - 1).square().mean()


def critic_loss(gap: torch.Tensor, penalty: torch.Tensor, weight: float) -> torch.Tensor:
    return gap + weight * penalty


def generator_loss(fake_scores: torch.Tensor) -> torch.Tensor:
    return -fake_scores.mean()


def discriminator_entropy(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of "real" and "generated", scores being logits, mean of both halves."""
    return (F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()) / 2


def non_saturating_loss(fake_scores: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of calling the generated images real."""
    return F.softplus(-fake_scores).mean()


def score_drift(real_scores: torch.Tensor) -> torch.Tensor:
    """Mean square of the real scores, which the gap alone leaves free to wander (Karras et al.
    2017, arXiv 1710.10196, with weight 0.001)."""
    return real_scores.square().mean()


def realism(real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
    """How far the critic tells its training images from generated ones: from 0, not at all, to 1.

    The mean sign of the real scores, the overfitting signal r_t of Karras et al. (2020, arXiv
    2006.06676). A WGAN's scores have no zero of their own: the middle of both means serves.
    """
    middle = (real_scores.mean() + fake_scores.mean()) / 2
    return (real_scores - middle).sign().mean()
