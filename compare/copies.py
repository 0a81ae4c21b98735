"""Training images given out again: as they are, mirrored, cropped, re-lit or compressed.

A plain cosine of pixels misses a copy that is mirrored or cropped, and calls any two radiographs
alike. Here images are compared by their middle frequencies (the broad shading, which they share, is
taken out), and a generated image is sought inside the training images:

1. candidates by cosine with many crops of every training image, at 16 pixels;
2. registration: from the best of these the crop of a candidate is moved and scaled by gradient
   until it correlates best with the image, at 32 pixels;
3. the same from there for the likeliest few at 64 pixels, where what only looks alike lags behind.

Shading is taken out after cropping: a radiograph's bright frame would leave its ringing inside.
All for the mirrored image too. What the score means is told by unseen real images alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu, norm
from torch import Tensor

from compare.features import Made, PixelPath, pixel_batches
from compare.neighbours import Neighbours
from core.sets import ImageSet

COARSE, MIDDLE, FINE = 16, 32, 64  # pixels
BAND = {COARSE: (0.0, 1.0), MIDDLE: (0.0, 2.0), FINE: (0.8, 4.0)}
"""Deviations, in pixels of each size: of what is too small to count (noise, traces of JPEG and of
autoencoders), and of the shading taken out."""
CROPS = {1.0: 1, 0.96: 3, 0.92: 4, 0.88: 5, 0.84: 5, 0.8: 5}
"""Share of a side -> places along it: the crops of a training image in step 1."""
CANDIDATES, FINALISTS = 12, 2  # training images, mirrored or not, that enter steps 2 and 3
ASCENT = {MIDDLE: (20, 0.01), FINE: (15, 0.005)}
"""Steps of registration, and their size in half sides."""
CUT, UNCUT = "nrc,yir,xjc->nxyij", "nij,yir,xjc->nxyrc"
"""Crops of an image, and back: n image, x and y place, i, j in the crop, r, c in the image."""
SEARCHED, BLOCK, PAIRS = 16, 256, 512  # queries, training images, and pairs, at once
QUANTILE = 0.999
ENOUGH = 1000  # unseen images that show it
LARGEST = 1 - 1e-6  # score that still has a Fisher transform
NONE = -2.0  # score of what does not count


@dataclass(frozen=True)
class Pairs:
    """K training images for each of Q images: all Q x K, `crop` Q x K x (share, x, y)."""

    score: Tensor
    side: Tensor
    """1 where the image was mirrored."""
    place: Tensor
    """In the bank."""
    crop: Tensor
    """Of the training image, as in `_crops`."""

    def best(self, count: int) -> "Pairs":
        order = self.score.topk(min(count, self.score.shape[1])).indices
        parts = (part.gather(1, order) for part in (self.score, self.side, self.place))
        return Pairs(*parts, self.crop.take_along_dim(order[:, :, None], 1))

    @staticmethod
    def joined(several: Iterable["Pairs"], axis: int) -> "Pairs":
        parts = zip(*(vars(pairs).values() for pairs in several), strict=True)
        return Pairs(*(torch.cat(part, axis) for part in parts))


class CopyBank:
    """Training images among which copies are sought: 6.3 kB of memory each."""

    def __init__(self, bank: ImageSet | Made, path: PixelPath, device: str = "cpu") -> None:
        self.path, self.device = path, device
        self._bank = torch.cat(list(_maps(bank, path, device)))
        parts = [_smooth(maps) for maps in self._bank.split(BLOCK)]
        self._smooth = torch.cat([part.flatten(1).half() for part in parts])  # N x 1024
        self._lengths = torch.cat([_unit(_at_crops(part, CUT))[1] for part in parts])  # N x V

    @torch.no_grad()
    def find(self, images: ImageSet | Made, own: np.ndarray | None = None) -> Neighbours:
        """The training image that each image is most likely a copy of, and its score: Q x 1 both.

        Args:
            own: place in the bank of each image itself, Q, which is not its own copy.

        Of the queries 8 kB an image are held.
        """
        maps = torch.cat(list(_maps(images, self.path, self.device)))
        queries = torch.stack([maps, maps.flip(-1)])  # 2 x Q x 64 x 64, the second mirrored
        mine = np.full(len(maps), -1) if own is None else own
        each = torch.from_numpy(mine).to(self.device).split(SEARCHED)
        pairs = Pairs.joined(map(self._candidates, queries.split(SEARCHED, 1), each), 0)
        pairs = self._register(queries, pairs, MIDDLE)
        pairs = self._register(queries, pairs.best(FINALISTS), FINE).best(1)
        return Neighbours(pairs.place.cpu().numpy(), pairs.score.cpu().numpy())

    def _candidates(self, queries: Tensor, own: Tensor) -> Pairs:
        """Step 1: the likeliest crops of training images, by cosine.

        Cutting a crop and taking its shading out are turned round, onto the query (`_at_crops`):
        so a block of training images with all their crops is one matrix product.
        """
        table = torch.tensor(_crops(), device=self.device)
        side = torch.arange(2, device=self.device)[:, None, None]
        smooth = _smooth(queries.flatten(0, 1))
        rows = _rows(_cut(smooth, table[:1].expand(len(smooth), 3), COARSE))
        templates = _at_crops(rows.unflatten(1, (COARSE, COARSE)), UNCUT)  # 2Q x V x 1024
        found = None
        for first in range(0, len(self._bank), BLOCK):
            block = slice(first, first + BLOCK)
            score = templates @ self._smooth[block].float().T / self._lengths[block].T
            score, crop = (part.unflatten(0, (2, -1)) for part in score.max(1))  # 2 x Q x B
            place = torch.arange(first, first + score.shape[2], device=self.device)
            score[:, place == own[:, None]] = NONE
            parts = (score, side.expand_as(score), place.expand_as(score), table[crop])
            pairs = Pairs(*(torch.cat([*part], 1) for part in parts))  # Q x 2B
            found = (Pairs.joined((found, pairs), 1) if found else pairs).best(CANDIDATES)
        assert found is not None
        return found

    def _register(self, queries: Tensor, pairs: Pairs, size: int) -> Pairs:
        """Step 2 or 3: better crops, and their scores."""
        query = torch.arange(len(pairs.place), device=self.device)[:, None]
        flat = (pairs.side, query.expand_as(pairs.place), pairs.place, pairs.crop)
        parts = zip(*(part.flatten(0, 1).split(PAIRS) for part in flat), strict=True)
        found = [
            _register(_sized(queries[side, query], size), _sized(self._bank[place], size), crop)
            for side, query, place, crop in parts
        ]
        score, crop = map(torch.cat, zip(*found, strict=True))
        score = torch.where(pairs.score > NONE, score.view_as(pairs.score), NONE)
        return Pairs(score, pairs.side, pairs.place, crop.view_as(pairs.crop))


def find_copies(
    images: ImageSet | Made,
    bank: ImageSet | Made,
    path: PixelPath,
    device: str = "cpu",
    own: np.ndarray | None = None,
) -> Neighbours:
    """`CopyBank.find`, once."""
    return CopyBank(bank, path, device).find(images, own)


def copy_bound(unseen: np.ndarray) -> float:
    """The 99.9th percentile of the scores of unseen real images (N).

    Fewer than 1,000 do not show it, so it is taken from a normal distribution of their Fisher
    transforms (artanh) where that lies above their own.
    """
    measured = float(np.quantile(unseen, QUANTILE))
    if not 2 <= len(unseen) < ENOUGH:
        return measured
    z = np.arctanh(np.clip(unseen, -LARGEST, LARGEST))
    return max(measured, float(np.tanh(z.mean() + norm.ppf(QUANTILE) * z.std(ddof=1))))


def copy_test(scores: np.ndarray, unseen: np.ndarray) -> dict[str, Any]:
    """Whether generated images (M scores) are nearer to training images than unseen real ones (N).

    Returns `bound` of the unseen (`copy_bound`), `share_above` it, and `p` of a one-sided
    Mann-Whitney test.
    """
    bound = copy_bound(unseen)
    return {
        "bound": bound,
        "share_above": float((scores > bound).mean()),
        "p": float(mannwhitneyu(scores, unseen, alternative="greater").pvalue),
    }


def _maps(images: ImageSet | Made, path: PixelPath, device: str) -> Iterator[Tensor]:
    """Grey, uint8, N x 64 x 64, a block at a time."""
    for block in pixel_batches(images, path, BLOCK):
        pixels = torch.from_numpy(block).to(device).float()
        pixels = pixels if pixels.ndim == 3 else pixels.mean(-1)
        yield _resized(pixels, FINE).round().clamp(0, 255).byte()


def _sized(maps: Tensor, size: int) -> Tensor:
    """uint8, N x 64 x 64, as N x size x size in [0, 1]."""
    return _resized(maps.float() / 255, size)


def _resized(maps: Tensor, size: int) -> Tensor:
    if maps.shape[1:] == (size, size):
        return maps
    return F.interpolate(maps[:, None], (size, size), mode="bilinear", antialias=True)[:, 0]


def _smooth(maps: Tensor) -> Tensor:
    """What step 1 cuts crops from: N x 32 x 32."""
    return _blur(_sized(maps, MIDDLE), 0.7)


def _at_crops(maps: Tensor, way: str) -> Tensor:
    """Middle frequencies of every crop, as `_rows` but neither centred nor scaled: N x V x D.

    Both to cut and to blur are matrices along y and along x, the same for all images.

    Args:
        way: CUT for the crops of N x 32 x 32, D 256; UNCUT, its transpose, of N x 16 x 16, D 1024.
    """
    found = []
    for share, count in CROPS.items():
        sharp, broad = _along(share, count, maps.device)
        middle = torch.einsum(way, maps, sharp, sharp) - torch.einsum(way, maps, broad, broad)
        found.append(middle.flatten(3).flatten(1, 2))
    return torch.cat(found, 1)


@lru_cache
def _along(share: float, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices that cut a line of 32 pixels at `count` places, and that then blur it: count x 16 x
    32 both. Their columns are what becomes of an image that is 1 in one column alone."""
    columns = torch.eye(MIDDLE, device=device)[:, None].expand(-1, MIDDLE, -1)
    crops = torch.tensor([(share, shift, 0.0) for shift in _shifts(share, count)], device=device)
    cut = [_cut(columns, crop.expand(MIDDLE, 3), COARSE) for crop in crops]
    blurred = [_blur(each, BAND[COARSE][1]) for each in cut]
    sharp, broad = (torch.stack([each[:, 0].T for each in kind]) for kind in (cut, blurred))
    return sharp, broad


def _crops() -> list[tuple[float, float, float]]:
    """(share of the side, shift in x, shift in y), the whole first; shifts in half sides, 0 for
    the middle."""
    found = []
    for share, count in CROPS.items():
        shifts = _shifts(share, count)
        found += [(share, x, y) for x in shifts for y in shifts]
    return found


def _shifts(share: float, count: int) -> list[float]:
    return np.linspace(share - 1, 1 - share, count).tolist() if count > 1 else [0.0]


def _register(images: Tensor, bank: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Highest correlation of N images with crops of N training images (both N x S x S) near
    `crops`, N x 3, and the crops that have it: Adam on the three numbers (Kingma and Ba 2015)."""
    size = images.shape[-1]
    steps, rate = ASCENT[size]
    wanted, free = _rows(images), crops.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=rate)
    best, where = torch.full((len(images),), NONE, device=images.device), crops.clone()
    with torch.enable_grad():
        for _ in range(steps):
            score = (wanted * _rows(_cut(bank, free, size))).sum(1)
            better = score.detach() > best
            best = torch.where(better, score.detach(), best)
            where = torch.where(better[:, None], free.detach(), where)
            optimiser.zero_grad()
            (-score.sum()).backward()
            optimiser.step()
    return best, where


def _cut(maps: Tensor, crops: Tensor, size: int) -> Tensor:
    """The crop (share, x, y) of each of N maps: N x size x size; beyond its edge a map goes on as
    it ends."""
    share, x, y = crops[:, :, None].unbind(1)
    line = (2 * torch.arange(size, device=maps.device) + 1) / size - 1  # middles of pixels
    across, down = share * line + x, share * line + y
    shape = (len(maps), size, size)
    places = torch.stack([across[:, None].expand(shape), down[:, :, None].expand(shape)], 3)
    return F.grid_sample(maps[:, None], places, align_corners=False, padding_mode="border")[:, 0]


def _rows(maps: Tensor) -> Tensor:
    """The middle frequencies of N x S x S as rows of mean 0 and length 1: N x S*S."""
    small, broad = BAND[maps.shape[-1]]
    return _unit(((_blur(maps, small) if small else maps) - _blur(maps, broad)).flatten(1))[0]


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (... x D) with mean 0 and length 1, and the lengths they had."""
    rows = rows - rows.mean(-1, keepdim=True)
    lengths = rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # a flat image has none
    return rows / lengths, lengths[..., 0]


def _blur(maps: Tensor, deviation: float) -> Tensor:
    """N x S x S under a Gaussian, edges repeated. By matrices, since convolutions of one channel
    take ten times as long, and their gradients more."""
    weights = _gaussian(maps.shape[-1], deviation, maps.device)
    return weights @ maps @ weights.T


@lru_cache
def _gaussian(size: int, deviation: float, device: torch.device) -> Tensor:
    """What blurs a line of so many pixels: size x size."""
    reach = round(3 * deviation)
    places = torch.arange(-reach, reach + 1, device=device)
    row = torch.exp(-(places**2) / (2 * deviation**2))
    columns = (torch.arange(size, device=device)[:, None] + places).clamp(0, size - 1)
    weights = torch.zeros(size, size, device=device)
    return weights.scatter_add_(1, columns, (row / row.sum()).expand(size, -1))


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
