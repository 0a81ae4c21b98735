"""Images in their own shapes: batches of like aspect ratio, all of about as many pixels."""

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps

from core.images import open_image, to_array
from core.seeds import batch_at
from finetune.captions import Words
from finetune.encode import Batch, Source
from finetune.settings import DreamBoothSettings
from finetune.subjects import Subject

LONGEST = 2.0  # ratio of the sides, at most


@dataclass(frozen=True)
class Shape:
    """Of a bucket, in pixels."""

    height: int
    width: int


def shapes(size: int, unit: int) -> list[Shape]:
    """Shapes of at most size x size pixels with sides in multiples of `unit`: of each width the
    tallest, and no side more than LONGEST times the other."""
    found = []
    for width in range(unit, int(size * LONGEST) + 1, unit):
        height = size * size // width // unit * unit
        if height and max(width, height) <= LONGEST * min(width, height):
            found.append(Shape(height, width))
    return found


def nearest(height: int, width: int, choice: list[Shape]) -> Shape:
    """The shape of the nearest aspect ratio; of equals the largest."""
    wanted = math.log(width / height)
    return min(
        choice,
        key=lambda s: (abs(math.log(s.width / s.height) - wanted), -s.width * s.height),
    )


def unit_of(pipeline: StableDiffusionPipeline) -> int:
    """Pixels that sides have to be multiples of: 64 for Stable Diffusion 2."""
    levels = len(pipeline.unet.config.block_out_channels) - 1
    return int(pipeline.vae_scale_factor * 2**levels)


def sort_out(subject: Subject, choice: list[Shape]) -> dict[Shape, Subject]:
    """The images of each bucket that has any, with their captions."""
    members = defaultdict(list)
    for place, path in enumerate(subject.images.paths):
        width, height = open_image(path).size
        members[nearest(height, width, choice)].append(place)
    found = {}
    for shape in sorted(members, key=lambda s: s.width):
        places = members[shape]
        images = replace(
            subject.images,
            paths=[subject.images.paths[place] for place in places],
            rows=[subject.images.rows[place] for place in places],
        )
        found[shape] = Subject(images, [subject.captions[place] for place in places])
    return found


def pixels_of(subject: Subject, shape: Shape) -> np.ndarray:
    """uint8 N x height x width x 3, cropped at the middle."""
    size = (shape.width, shape.height)
    images = (open_image(path) for path in subject.images.paths)
    return to_array([ImageOps.fit(image, size, Image.Resampling.LANCZOS) for image in images])


class Buckets:
    """Sources of one shape each, taken in turn: in an era a bucket gives as many batches as it has
    images (or all of them the same share of that), so each image is seen equally often."""

    def __init__(self, sources: list[Source], batch: int, seed: int) -> None:
        self.sources = sources
        self.seed = seed
        counts = [len(source.captions) for source in sources]
        share = math.gcd(batch, *counts)
        self.batches = [count // share for count in counts]
        self.turns = [n for n, count in enumerate(self.batches) for _ in range(count)]
        self._era = -1
        self._places: list[tuple[int, int]] = []  # of this era's steps: source, batches before

    @property
    def told(self) -> str:
        """Each shape, and how many images it has."""
        shapes = [(source.name.split()[-1], len(source.captions)) for source in self.sources]
        return ", ".join(f"{shape} ({count})" for shape, count in shapes)

    @property
    def cached(self) -> bool:
        return all(source.cached for source in self.sources)

    def at(self, step: int, timesteps: int) -> list[Batch]:
        """This process's share of step `step`: see `Source.at`."""
        era, place = divmod(step, len(self.turns))
        if era != self._era:
            self._era, self._places = era, self._shuffled(era)
        turn, before = self._places[place]
        return self.sources[turn].at(era * self.batches[turn] + before, timesteps)

    def _shuffled(self, era: int) -> list[tuple[int, int]]:
        given = [0] * len(self.sources)
        places = []
        for each in batch_at(era, len(self.turns), len(self.turns), self.seed):
            turn = self.turns[each]
            places.append((turn, given[turn]))
            given[turn] += 1
        return places


def sources_of(
    subjects: dict[str, Subject],
    pipeline: StableDiffusionPipeline,
    size: int,
    words: Words,
    settings: DreamBoothSettings,
    accelerator: Accelerator,
) -> list[Source] | list[Buckets]:
    """What each step is drawn from, one for each subject; images are encoded here."""
    common = {"words": words, "settings": settings, "accelerator": accelerator}
    if settings.buckets:
        return [bucketed("instance", subjects["instance"], pipeline, size, **common)]
    return [
        Source(name, own.captions, own.images.pixels(size, "RGB"), vae=pipeline.vae, **common)
        for name, own in subjects.items()
    ]


def bucketed(
    name: str, subject: Subject, pipeline: StableDiffusionPipeline, size: int, **common: Any
) -> Buckets:
    """The subject as buckets; `common`: what every `Source` is given."""
    settings = common["settings"]
    sources = [
        Source(
            f"{name} {shape.height}x{shape.width}",
            each.captions,
            pixels_of(each, shape),
            vae=pipeline.vae,
            **common,
        )
        for shape, each in sort_out(subject, shapes(size, unit_of(pipeline))).items()
    ]
    return Buckets(sources, settings.batch, settings.seed)
