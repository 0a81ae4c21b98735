"""The thesis's generator and critic, and the same family at other sizes.

At 256 px they are the thesis's networks, parameter for parameter. Another size leaves out, or adds,
blocks at the coarse end; the layers next to the image stay as they are:

    size    generator channels, 4x4 to image     critic channels, image to 4x4
     32     128  64  32   c                      c  16  32  64
     64     256 128  64  32   c                  c  16  32  64 128
    256     1024 512 256 128  64  32   c         c  16  32  64 128 256 512
"""

import torch
from torch import nn


class Generator(nn.Module):
    """Noise to images in (0, 1): transposed convolutions, BatchNorm, ReLU; a sigmoid at the end.

    With classes, a learned vector of the image's class goes in beside the noise.
    """

    low = 0.0  # black

    def __init__(
        self,
        z_dim: int = 64,
        size: int = 256,
        channels: int = 1,
        width: int = 16,
        classes: int = 0,
    ) -> None:
        """`width` is the thesis's d = 16: the layer before the image has 2d channels."""
        super().__init__()
        self.z_dim = z_dim
        self.classes = classes
        if classes:
            self.embed = nn.Embedding(classes, z_dim)
            z_dim = 2 * z_dim
        blocks = size.bit_length() - 4  # 256: 5
        wide = 2 * width << blocks  # 256: 64d = 1024
        layers = [nn.ConvTranspose2d(z_dim, wide, 4), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        for _ in range(blocks):
            layers += [
                nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1),
                nn.BatchNorm2d(wide // 2),
                nn.ReLU(inplace=True),
            ]
            wide //= 2
        layers += [nn.ConvTranspose2d(wide, channels, 4, stride=2, padding=1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """N x z_dim, from N(0, 1), and N class numbers -> N x channels x size x size."""
        if self.classes:
            noise = torch.cat([noise, self.embed(labels)], dim=1)
        images: torch.Tensor = self.layers(noise[:, :, None, None])
        return images


class Critic(nn.Module):
    """Images to unbounded scores: strided convolutions, InstanceNorm, LeakyReLU(0.2).

    Nothing mixes the images of a batch, as the gradient penalty, one norm per image, requires.
    With classes, the last features' product with a learned vector of the class is added to the
    score (projection critic, Miyato and Koyama 2018, arXiv 1802.05637).
    """

    def __init__(
        self, size: int = 256, channels: int = 1, width: int = 16, classes: int = 0
    ) -> None:
        super().__init__()
        self.classes = classes
        layers: list[nn.Module] = []
        for block in range(size.bit_length() - 3):  # 256: 6
            layers += [
                nn.Conv2d(channels, width << block, 4, stride=2, padding=1),
                nn.InstanceNorm2d(width << block),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels = width << block
        layers += [nn.Conv2d(channels, 1, 4)]
        self.layers = nn.Sequential(*layers)
        if classes:
            self.embed = nn.Embedding(classes, channels)
            nn.init.zeros_(self.embed.weight)  # at first the class says nothing

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """N x channels x size x size, and N class numbers -> N scores."""
        features = self.layers[:-1](images)  # N x C x 4 x 4
        scores: torch.Tensor = self.layers[-1](features).flatten()
        if self.classes:
            scores = scores + (self.embed(labels) * features.sum((2, 3))).sum(1)
        return scores
