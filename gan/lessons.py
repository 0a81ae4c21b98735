"""The networks of the course: a dense GAN and a DCGAN. Their images lie in [-1, 1]."""

import torch
from torch import nn

from gan.networks import Generator


class DcganGenerator(Generator):
    """The thesis's layers with a tanh at the end and DCGAN's first weights (Radford et al. 2015,
    arXiv 1511.06434). Width 32 at 64 px: 512, 256, 128, 64 channels, as in the paper's code."""

    low = -1.0

    def __init__(
        self, z_dim: int = 100, size: int = 64, channels: int = 3, width: int = 32
    ) -> None:
        super().__init__(z_dim, size, channels, width)
        self.layers[-1] = nn.Tanh()
        self.apply(first_weights)


class DcganCritic(nn.Module):
    """Strided convolutions, BatchNorm but for the first, LeakyReLU(0.2): images to logits.

    BatchNorm mixes the images of a batch: no gradient penalty with this one.
    """

    def __init__(self, size: int = 64, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(size.bit_length() - 3):  # 64: 4
            wide = 2 * width << block
            layers += [nn.Conv2d(channels, wide, 4, stride=2, padding=1, bias=not block)]
            layers += [nn.BatchNorm2d(wide)] if block else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            channels = wide
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4))
        self.apply(first_weights)

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """N x channels x size x size -> N logits; `labels` say nothing."""
        logits: torch.Tensor = self.layers(images).flatten()
        return logits


class DenseGenerator(nn.Module):
    """Three dense layers (256, 512 and 1024 units at width 16) with LeakyReLU.

    Without BatchNorm, which on vectors cannot take an epoch's last batch of one image.
    """

    low = -1.0
    classes = 0

    def __init__(
        self, z_dim: int = 100, size: int = 32, channels: int = 1, width: int = 16
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        layers: list[nn.Module] = []
        for units in (16 * width, 32 * width, 64 * width):
            layers += [nn.Linear(z_dim, units), nn.LeakyReLU(0.2)]
            z_dim = units
        layers += [nn.Linear(z_dim, channels * size * size), nn.Tanh()]
        self.layers = nn.Sequential(*layers, nn.Unflatten(1, (channels, size, size)))

    def forward(self, noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """N x z_dim -> N x channels x size x size; `labels` say nothing."""
        images: torch.Tensor = self.layers(noise)
        return images


class DenseCritic(nn.Module):
    """Two dense layers (512 and 256 units at width 16) with LeakyReLU: images to logits."""

    def __init__(self, size: int = 32, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, 32 * width),
            nn.LeakyReLU(0.2),
            nn.Linear(32 * width, 16 * width),
            nn.LeakyReLU(0.2),
            nn.Linear(16 * width, 1),
        )

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """N x channels x size x size -> N logits; `labels` say nothing."""
        logits: torch.Tensor = self.layers(images).flatten()
        return logits


def first_weights(module: nn.Module) -> None:
    """DCGAN's: N(0, 0.02) for convolutions, N(1, 0.02) for the scales of BatchNorm."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
