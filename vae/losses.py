"""The guide's loss: alpha * MSE + beta * KL + gamma * blur. Tensors in, numbers out.

All three are means: over pixels, over latent elements, over images. Only so do weights of 5, 1 and
10 balance; with the sums of the textbook they would not. In its terms, for P pixel values an image
and L latent elements, the decoder is a Gaussian of variance (beta / L) / (2 alpha / P) on [-1, 1].
"""

import torch
import torch.nn.functional as F

LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
FLAT = 1e-4  # variance of the Laplacian, on [-1, 1], under which an image counts as flat


def reconstruction_loss(reconstruction: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared error, over images and pixels."""
    return F.mse_loss(reconstruction, images)


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) in nats, mean over images and latent elements."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean()


def sharpness(images: torch.Tensor) -> torch.Tensor:
    """Variance of the Laplacian of each image, N: low where an image is blurred.

    Args:
        images: N x C x H x W.
    """
    kernel = images.new_tensor(LAPLACIAN).expand(images.shape[1], 1, 3, 3)
    edges = F.conv2d(images, kernel, groups=images.shape[1])  # N x C x H-2 x W-2
    return edges.flatten(1).var(dim=1, unbiased=False)


def blur_loss(reconstruction: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """mean max(0, 1 - sharpness(reconstruction) / sharpness(image)): 0 sharp enough, 1 flat.

    The guide says only that a low variance of the Laplacian is penalised. Minus the variance has no
    lower bound and would reward noise for ever; its inverse explodes at the first, flat, outputs.
    Measured against the image itself the loss stays in [0, 1] and asks for no more than is there.
    """
    wanted = sharpness(images) + FLAT
    return (1 - (sharpness(reconstruction) + FLAT) / wanted).clamp(min=0).mean()


def vae_loss(
    terms: tuple[torch.Tensor, torch.Tensor, torch.Tensor], weights: tuple[float, float, float]
) -> torch.Tensor:
    """alpha * reconstruction + beta * KL + gamma * blur."""
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))
