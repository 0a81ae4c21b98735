"""Training images given out again: as they are, mirrored, cropped, re-lit or compressed.

A plain cosine of pixels misses a copy that is mirrored or cropped, and calls any two radiographs
alike. Here images are compared by their middle frequencies (the broad shading, which they share, is
taken out), and a generated image is sought inside the training images:

1. candidates by cosine with many crops of every training image, at 16 pixels;
2. for each candidate, template matching: the image, shrunk step by step, is moved over the training
   image at 32 pixels, to the highest normalised cross-correlation;
3. for the likeliest few, registration: from there the crop of the training image is moved and
   scaled by gradient until it correlates best with the image, both without their own shading.

All for the mirrored image too. What the score means is told by unseen real images alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu
from torch import Tensor

from compare.features import Made, PixelPath, pixel_batches
from compare.neighbours import Neighbours
from core.sets import ImageSet

SIDE, COARSE = 32, 16  # pixels
BROAD, NARROW = 4.0, 2.0  # deviations, in pixels of SIDE, of the shading taken out in steps 1 and 2
CROPS = {1.0: 1, 0.95: 2, 0.9: 3, 0.85: 3, 0.8: 4}
"""Share of a side -> places along it: the crops of a training image in step 1."""
TEMPLATES = range(25, SIDE + 1)
"""Sides of the shrunk image in step 2: crops of 0.78 and more."""
CANDIDATES, FINALISTS = 12, 6
"""Training images that enter step 2, for the image and its mirror each, and step 3, for both."""
ASCENT, RATE = 30, 0.01  # steps of registration, and their size in half sides
BLOCK, PAIRS = 256, 512  # training images, and pairs, at once
QUANTILE = 0.999


class CopyBank:
    """Training images in memory, 2 kB each, among which copies are sought."""

    def __init__(self, bank: ImageSet | Made, path: PixelPath, device: str = "cpu") -> None:
        self.path, self.device = path, device
        self._bank = torch.cat([maps.half() for maps in _maps(bank, path, device)])  # N x 32 x 32

    @torch.no_grad()
    def find(self, images: ImageSet | Made, own: np.ndarray | None = None) -> Neighbours:
        """The training image that each image is most likely a copy of, and its score: Q x 1 both.

        Args:
            own: place in the bank of each image itself, Q, which is not its own copy.

        Of the queries 6 kB an image are held.
        """
        queries = torch.cat(list(_maps(images, self.path, self.device)))
        queries = torch.stack([queries, queries.flip(-1)])  # 2 x Q x 32 x 32, the second mirrored
        mine = None if own is None else torch.from_numpy(own).to(self.device)
        places, valid = self._candidates(queries, mine)
        scores = _score_all(queries, self._bank, places, valid)
        top = scores.argmax(1, keepdim=True)  # Q x 1, over both sides' candidates
        index = torch.cat([*places], 1).gather(1, top)
        return Neighbours(index.cpu().numpy(), scores.gather(1, top).cpu().numpy())

    def _candidates(self, queries: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Step 1: places in the bank, 2 x Q x K, and whether they count."""
        numbers = torch.arange(len(self._bank), device=self.device)
        best, places = None, None
        for block, index in zip(self._bank.split(BLOCK), numbers.split(BLOCK), strict=True):
            found = _likeness(queries, block.float())  # 2 x Q x B
            if own is not None:
                found[:, index[None] == own[:, None]] = -1
            index = index.expand_as(found)
            if best is not None:
                found, index = torch.cat([best, found], 2), torch.cat([places, index], 2)
            best, order = found.topk(min(CANDIDATES, found.shape[2]), dim=2)
            places = index.gather(2, order)
        return places, best > -1


def find_copies(
    images: ImageSet | Made,
    bank: ImageSet | Made,
    path: PixelPath,
    device: str = "cpu",
    own: np.ndarray | None = None,
) -> Neighbours:
    """`CopyBank.find`, once."""
    return CopyBank(bank, path, device).find(images, own)


def copy_test(scores: np.ndarray, unseen: np.ndarray) -> dict[str, Any]:
    """Whether generated images (M scores) are nearer to training images than unseen real ones (N).

    Returns `bound`, the 99.9th percentile of the unseen (with fewer than 1000, nearly their
    highest), `share_above` it, and `p` of a one-sided Mann-Whitney test.
    """
    bound = float(np.quantile(unseen, QUANTILE))
    return {
        "bound": bound,
        "share_above": float((scores > bound).mean()),
        "p": float(mannwhitneyu(scores, unseen, alternative="greater").pvalue),
    }


def _maps(images: ImageSet | Made, path: PixelPath, device: str) -> Iterator[Tensor]:
    """Grey, 32 x 32, in [0, 1], a block at a time."""
    for block in pixel_batches(images, path, BLOCK):
        pixels = torch.from_numpy(block).to(device).float() / 255
        pixels = pixels if pixels.ndim == 3 else pixels.mean(-1)
        yield F.interpolate(pixels[:, None], (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]


def _likeness(queries: Tensor, block: Tensor) -> Tensor:
    """Step 1: highest cosine of each query (2 x Q x 32 x 32) with a crop of each training image
    (B x 32 x 32): 2 x Q x B."""
    detail = _detail(block)
    crops = torch.stack([_small(detail, *crop) for crop in _crops()], 1)  # B x V x 256
    rows = _small(_detail(queries.flatten(0, 1)), 1.0, 0.0, 0.0)  # 2Q x 256
    found = [torch.einsum("qd,bvd->qbv", part, crops).amax(2) for part in rows.split(PAIRS)]
    return torch.cat(found).unflatten(0, (2, -1))


def _crops() -> list[tuple[float, float, float]]:
    """(share of the side, shift in x, shift in y); shifts in half sides, 0 for the middle."""
    found = []
    for share, count in CROPS.items():
        shifts = np.linspace(share - 1, 1 - share, count) if count > 1 else [0.0]
        found += [(share, float(x), float(y)) for x in shifts for y in shifts]
    return found


def _detail(maps: Tensor) -> Tensor:
    """Without broad shading, and smooth enough for half the side."""
    return _blur(_without_shading(maps, BROAD), 1.0)


def _small(detail: Tensor, share: float, x: float, y: float) -> Tensor:
    """A crop of N x 32 x 32 at 16 pixels, as rows of mean 0 and length 1: N x 256."""
    theta = torch.tensor([[share, 0, x], [0, share, y]], device=detail.device)
    places = F.affine_grid(
        theta.expand(len(detail), 2, 3), [len(detail), 1, COARSE, COARSE], align_corners=False
    )
    return _rows(_sample(detail, places))


def _sample(maps: Tensor, places: Tensor) -> Tensor:
    """N x 32 x 32 at places from `affine_grid`."""
    return F.grid_sample(maps[:, None], places, align_corners=False, padding_mode="border")[:, 0]


def _score_all(queries: Tensor, bank: Tensor, places: Tensor, valid: Tensor) -> Tensor:
    """Steps 2 and 3 for all candidates (places, 2 x Q x K): scores, Q x 2K; -1 where not valid or
    not among the finalists."""
    per_side = places.shape[2]
    places, valid = torch.cat([*places], 1), torch.cat([*valid], 1)  # Q x 2K
    query, column = torch.meshgrid(*map(torch.arange, places.shape), indexing="ij")
    query, side, which = query.flatten(), column.flatten() // per_side, places.flatten()

    def images(pick: Tensor) -> tuple[Tensor, Tensor]:
        return queries[side[pick], query[pick]], bank[which[pick]].float()

    found = [_match(*images(pick)) for pick in torch.arange(len(which)).split(PAIRS)]
    matched, crops = (torch.cat(part) for part in zip(*found, strict=True))
    matched = torch.where(valid, matched.view(places.shape), -1.0)
    last = matched.topk(min(FINALISTS, matched.shape[1])).indices
    final = torch.zeros_like(valid).scatter_(1, last, True) & valid
    scores = torch.full((len(which),), -1.0, device=queries.device)
    for pick in final.flatten().nonzero()[:, 0].split(PAIRS):
        scores[pick] = _register(*images(pick), crops[pick])
    return scores.view(places.shape)


def _register(images: Tensor, bank: Tensor, crops: Tensor) -> Tensor:
    """Highest correlation of N images with crops of N training images (both N x 32 x 32) near
    `crops`, N x (share, x, y) as in `_crops`: Adam on the three numbers (Kingma and Ba 2015)."""
    wanted = _rows(_without_shading(images, NARROW))
    free = crops.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=RATE)
    best = torch.full((len(images),), -1.0, device=images.device)
    with torch.enable_grad():
        for _ in range(ASCENT):
            share = free[:, 0].clamp(max=1.0)
            room = 1 - share
            x, y = (torch.minimum(torch.maximum(free[:, i], -room), room) for i in (1, 2))
            none = torch.zeros_like(share)
            theta = torch.stack([share, none, x, none, share, y], 1).view(-1, 2, 3)
            places = F.affine_grid(theta, [len(bank), 1, SIDE, SIDE], align_corners=False)
            crop = _sample(bank, places)
            score = (wanted * _rows(_without_shading(crop, NARROW))).sum(1)
            best = torch.maximum(best, score.detach())
            optimiser.zero_grad()
            (-score.sum()).backward()
            optimiser.step()
    return best


def _rows(maps: Tensor) -> Tensor:
    """N maps as rows of mean 0 and length 1."""
    rows = maps.flatten(1)
    return F.normalize(rows - rows.mean(1, keepdim=True), dim=1)


def _match(templates: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Highest normalised cross-correlation of N templates, shrunk to each of TEMPLATES, with N
    training images (both N x 32 x 32) over all places inside; and where, N x (share, x, y)."""
    best = torch.full((len(templates),), -1.0, device=templates.device)
    crops = torch.zeros(len(templates), 3, device=templates.device)
    bank = _without_shading(bank, NARROW)
    both = torch.stack([bank, bank * bank], 1)
    for size in TEMPLATES:
        small = F.interpolate(templates[:, None], (size, size), mode="bilinear", antialias=True)
        small = _rows(_without_shading(small[:, 0], NARROW)).view(-1, size, size)
        windows = bank.unfold(1, size, 1).unfold(2, size, 1)  # N x places x places x size x size
        inner = torch.einsum("nxyij,nij->nxy", windows, small)
        mean, square = F.avg_pool2d(both, size, 1).unbind(1)
        spread = (size**2 * (square - mean**2)).clamp_min(1e-6)
        score, place = (inner * spread.rsqrt()).flatten(1).max(1)
        across = SIDE - size + 1
        y, x = ((at * 2 + size) / SIDE - 1 for at in (place // across, place % across))
        crop = torch.stack([torch.full_like(x, size / SIDE), x, y], 1)
        crops = torch.where((score > best)[:, None], crop, crops)
        best = torch.maximum(best, score)
    return best, crops


def _without_shading(maps: Tensor, deviation: float) -> Tensor:
    return maps - _blur(maps, deviation)


def _blur(maps: Tensor, deviation: float) -> Tensor:
    """N x H x W under a Gaussian, edges repeated."""
    reach = round(3 * deviation)
    row = torch.exp(
        -(torch.arange(-reach, reach + 1, device=maps.device) ** 2) / (2 * deviation**2)
    )
    row = row / row.sum()
    padded = F.pad(maps[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, row[None, None, None]), row[None, None, :, None])[:, 0]


def flag_rows(
    rows: Sequence[dict[str, Any]], found: Neighbours, bank: ImageSet, bound: float
) -> list[dict[str, Any]]:
    """samples.jsonl's rows with what was found: `nearest` training file, `copy_score` and
    `possible_copy`."""
    return [
        row
        | {
            "nearest": bank.paths[index].name,
            "copy_score": round(float(score), 4),
            "possible_copy": bool(score > bound),
        }
        for row, index, score in zip(rows, found.index[:, 0], found.cosine[:, 0], strict=True)
    ]
