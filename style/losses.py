"""The losses of neural style transfer (Gatys et al. 2015, arXiv 1508.06576). Tensors in, numbers
out.

Differences are taken relative to what is aimed at, so that one set of weights serves networks whose
features differ in size by orders.
"""

import torch


def content_loss(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance of features, 1 x C x H x W each, as a part of the target's square."""
    return (features - target).square().sum() / target.square().sum().clamp_min(1e-12)


def gram(features: torch.Tensor) -> torch.Tensor:
    """1 x C x H x W -> C x C: how channels go together, wherever they do; mean over places."""
    flat = features.flatten(2)[0]  # C x HW
    return flat @ flat.T / flat.shape[1]


def style_loss(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance of Gram matrices as a part of the target's square.

    Args:
        features: 1 x C x H x W.
        target: C x C.
    """
    return (gram(features) - target).square().sum() / target.square().sum().clamp_min(1e-12)


def total_variation(image: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of neighbouring pixels, across and down; 1 x C x H x W."""
    across = (image[..., 1:] - image[..., :-1]).square().mean()
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean()
    return across + down
