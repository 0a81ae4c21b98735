"""The guide's loss: alpha * MSE + beta * KL + gamma * blur. Tensors in, numbers out.

All three are means: over pixels, over latent elements, over images. Only so do weights of 5, 1 and
10 balance; with the sums of the textbook they would not. In its terms, for P pixel values an image
and L latent elements, the decoder is a Gaussian of variance (beta / L) / (2 alpha / P) on [-1, 1].
"""

import torch
import torch.nn.functional as F

LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
ACTIVE = 0.01  # variance of a latent element's mean, that of the prior being 1
FLAT = 1e-4  # variance of the Laplacian, on [-1, 1], under which an image counts as flat


def reconstruction_loss(reconstruction: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared error, over images and pixels."""
    return F.mse_loss(reconstruction, images)


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor, free_bits: float = 0.0) -> torch.Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) in nats, mean over images and latent elements.

    Args:
        free_bits: an element whose mean over the images is below this counts as this, and so is
            pressed no further (Kingma et al. 2016, arXiv 1606.04934).
    """
    elements = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)  # N x latent_dim
    if free_bits:
        return elements.mean(0).clamp(min=free_bits).mean()
    return elements.mean()


def active_share(mu: torch.Tensor) -> torch.Tensor:
    """Part of the latent elements whose mean varies over the images by a variance above 0.01
    (Burda et al. 2015, arXiv 1509.00519): near 0 once the posterior has collapsed."""
    return (mu.detach().var(0, unbiased=False) > ACTIVE).float().mean()


def deceit(logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the encoder's vectors being called draws of N(0, I)."""
    return F.softplus(-logits).mean()


def detection(prior_logits: torch.Tensor, encoded_logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of telling draws of N(0, I) from encoded vectors, mean of both halves."""
    return (F.softplus(-prior_logits).mean() + F.softplus(encoded_logits).mean()) / 2


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
