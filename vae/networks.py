"""The guide's convolutional variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114)."""

from itertools import pairwise

import torch
from torch import nn

LOGVAR_RANGE = (-30.0, 20.0)  # keeps exp(logvar) finite, as diffusers' AutoencoderKL does


class Vae(nn.Module):
    """`depth` strided convolutions down to a latent vector, `depth` transposed ones back up.

    Images lie in [-1, 1], N x in_channels x img_size x img_size; latent vectors are N x latent_dim.
    """

    def __init__(
        self,
        img_size: int = 128,
        latent_dim: int = 750,
        in_channels: int = 3,
        depth: int = 4,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        channels = [in_channels, *(width << layer for layer in range(depth))]
        side = img_size >> depth
        self.feature_map = (channels[-1], side, side)
        features = channels[-1] * side * side

        down: list[nn.Module] = []
        for before, after in pairwise(channels):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.fc_mu = nn.Linear(features, latent_dim)
        self.fc_logvar = nn.Linear(features, latent_dim)

        self.fc_decode = nn.Linear(latent_dim, features)
        up: list[nn.Module] = []
        for before, after in zip(channels[:0:-1], channels[-2::-1], strict=True):
            up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.decoder = nn.Sequential(*up[:-1], nn.Tanh())

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of q(z | images), float32, each N x latent_dim."""
        features = self.encoder(images)
        mu, logvar = self.fc_mu(features).float(), self.fc_logvar(features).float()
        return mu, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self.decoder(self.fc_decode(latents).unflatten(1, self.feature_map))
        return images

    def forward(
        self, images: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction, mu and logvar. `noise`: standard normal, N x latent_dim."""
        mu, logvar = self.encode(images)
        return self.decode(mu + (logvar / 2).exp() * noise), mu, logvar


class Adversary(nn.Module):
    """Tells draws of N(0, I) from encoded vectors (Makhzani et al. 2015, arXiv 1511.05644)."""

    def __init__(self, latent_dim: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """N x latent_dim -> N logits, high for draws of N(0, I)."""
        logits: torch.Tensor = self.layers(latents).flatten()
        return logits
