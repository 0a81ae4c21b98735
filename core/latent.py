"""The geometry of latent vectors, N(0, I) in d numbers: paths, planes, sums, projection.

Tensors in, tensors out; `core/explore.py` makes commands and pictures of it.
"""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F

from core.errors import UserError

KINDS = ("spherical", "linear")
PLANE_QUANTILES = (0.02, 0.98)  # of N(0, 1), between which a plane is drawn


def linear(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """From `a` (t = 0) straight to `b` (t = 1); half-way the vector is shorter than both."""
    return torch.lerp(a, b, t)


def spherical(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """From `a` to `b` along the great circle, where N(0, I) has its mass (White 2016, arXiv
    1609.04468). Vectors that point alike, or against each other, are joined straight."""
    angle = torch.acos(F.cosine_similarity(a, b, dim=0).clamp(-1, 1))
    if torch.sin(angle) < 1e-4:
        return linear(a, b, t)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def path(points: torch.Tensor, steps: int, kind: str, closed: bool = False) -> torch.Tensor:
    """K x d points -> (pairs) x (steps + 1) x d: each pair with both its ends.

    `closed` adds the way from the last point back to the first.
    """
    between = {"linear": linear, "spherical": spherical}[kind]
    ends = torch.cat([points, points[:1]]) if closed else points
    return torch.stack(
        [
            torch.stack([between(a, b, step / steps) for step in range(steps + 1)])
            for a, b in pairwise(ends)
        ]
    )


def plane(d: int, side: int, through: torch.Tensor | None = None) -> torch.Tensor:
    """side x side x d: a plane walked in equal shares of N(0, 1) (quantiles) along two directions,
    and stretched so that its vectors are on the whole as long as those of N(0, I) in d numbers.

    Args:
        through: 2 x d, the plane's directions, made orthonormal; None: the first two axes.
    """
    axes = torch.eye(2, d) if through is None else through
    first = axes[0] / axes[0].norm()
    second = axes[1] - (axes[1] @ first) * first
    second = second / second.norm()
    places = torch.special.ndtri(torch.linspace(*PLANE_QUANTILES, side)) * (d / 2) ** 0.5
    down, across = places.flip(0)[:, None, None], places[None, :, None]  # up is more
    return across * first + down * second


def combine(formula: str, vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The vector of "a - b + c" (names of `vectors`, signs between).

    Raises UserError for a formula that is not like that, or a name that is not there.
    """
    words = re.findall(r"[+-]|[^\s+-]+", formula)
    if words and words[0] not in "+-":
        words = ["+", *words]
    signs, names = words[::2], words[1::2]
    if not names or len(signs) != len(names) or set(signs) - set("+-") or set(names) & set("+-"):
        raise UserError(f"--formula '{formula}' is not like 'a - b + c'.")
    for name in names:
        if name not in vectors:
            raise UserError(f"--formula names '{name}'; --group gives: {', '.join(vectors)}.")
    return sum(
        (vectors[name] if sign == "+" else -vectors[name])
        for sign, name in zip(signs, names, strict=True)
    )  # type: ignore[return-value]


def project(
    images_of: Callable[[torch.Tensor], torch.Tensor],
    target: torch.Tensor,
    starts: torch.Tensor,
    steps: int = 300,
    rate: float = 0.05,
) -> tuple[torch.Tensor, float]:
    """The latent vector whose image is nearest to `target`, by gradient descent.

    Begins at the best of `starts`. What is lowered is the squared error at the full size and,
    averaged down, at a half, a quarter and so on to 8 px, so that places far off pull too.

    Args:
        images_of: latents N x d -> images N x C x H x W in [0, 1], with a graph.
        target: C x H x W in [0, 1].
        starts: M x d.

    Returns the vector, d, and the residual: root mean squared error over the pixels.
    """
    with torch.no_grad():
        errors = torch.stack([coarse_to_fine(images_of(z[None]), target[None]) for z in starts])
    latent = starts[int(errors.argmin())].clone()[None].requires_grad_()
    optimiser = torch.optim.Adam([latent], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        (slope,) = torch.autograd.grad(coarse_to_fine(images_of(latent), target[None]), latent)
        latent.grad = slope
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        residual = F.mse_loss(images_of(latent), target[None]).sqrt()
    return latent.detach()[0], float(residual)


def coarse_to_fine(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over the sides from the full one down to 8 px of the mean squared error."""
    errors = [F.mse_loss(images, targets)]
    while images.shape[-1] >= 16:
        images, targets = F.avg_pool2d(images, 2), F.avg_pool2d(targets, 2)
        errors.append(F.mse_loss(images, targets))
    return torch.stack(errors).mean()
