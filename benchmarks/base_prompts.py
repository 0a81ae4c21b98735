"""Does a prompt to the embedded base matter? What share of its images is read as prompted.

    python benchmarks/base_prompts.py --images 25

For eight classes (four findings, four animals) the base draws images from captions in the training
set's manner; the embedded encoder names the likeliest of the eight (X-ray or scene, times the
class). Beside that stand the same images against shuffled prompts (chance is 1 in 8), and the
encoder's own share on fresh phantoms that it has never seen (the ceiling). Writes
benchmarks/results/base/prompts.json and a sheet.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compare.encoder import load_encoder, read_attributes
from core.device import pick_device
from core.errors import command
from core.families import load_sampler
from core.files import write_json
from core.images import grid, to_array, write_png
from core.provenance import commit, now
from prepare.bestiary import caption, draw_scene, sample_scene
from prepare.captions import chest_caption
from prepare.chest import draw_chest, sample_chest

OUT = Path("benchmarks/results/base")
FINDINGS = ("Cardiomegaly", "Effusion", "Pneumothorax", "Mass")
ANIMALS = ("bird", "butterfly", "elephant", "wolf")
DOMAIN = {"findings": "domain=chest", "animal": "domain=bestiary"}
FRESH = 10_000_000  # seeds of phantoms from here on are in no set


@dataclass(frozen=True)
class Task:
    """One image asked for, and the phantom that the same words describe."""

    name: str
    prompt: str
    phantom: Image.Image


def tasks(count: int) -> list[Task]:
    """`count` of each class, with captions drawn like the training set's."""
    found = []
    for place in range(count):
        for number, finding in enumerate(FINDINGS):
            chest = replace(sample_chest(FRESH + 8 * place + number), findings=(finding,))
            words = chest_caption((finding,), chest.view, chest.sex, chest.age)
            picture = Image.fromarray(draw_chest(chest, 64)).convert("RGB")
            found.append(Task(f"findings={finding}", words, picture))
        for number, animal in enumerate(ANIMALS):
            scene = replace(sample_scene(FRESH + 8 * place + number, animal), style="photo")
            picture = Image.fromarray(draw_scene(scene, 64))
            found.append(Task(f"animal={animal}", caption(scene), picture))
    return found


def read(
    encoder: torch.nn.Module, images: Sequence[Image.Image], names: Sequence[str]
) -> list[str]:
    """The likeliest of `names` for each image.

    The encoder learned findings on X-rays and animals on scenes: what it says of a finding counts
    as far as it takes the image for an X-ray, and likewise for animals.
    """
    pixels = torch.from_numpy(to_array(list(images))).permute(0, 3, 1, 2).float() / 255
    chances = read_attributes(encoder, pixels)
    best = torch.stack([chances[name] * chances[DOMAIN[name.split("=")[0]]] for name in names])
    best = best.argmax(0)
    return [names[i] for i in best.tolist()]


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=Path("models/sd2-mini"))
    parser.add_argument("--encoder", type=Path, default=Path("models/encoder-mini"))
    parser.add_argument("--images", type=int, default=25, help="of each of the eight classes")
    parser.add_argument("--guidance", type=float, default=4.0)
    arguments = parser.parse_args(argv)
    encoder = load_encoder(arguments.encoder)
    sampler = load_sampler(arguments.base, pick_device())
    wanted = tasks(arguments.images)
    names = sorted({task.name for task in wanted})
    made: list[Image.Image] = []
    for first in range(0, len(wanted), 20):
        part = wanted[first : first + 20]
        seeds = range(first, first + len(part))
        prompts = [task.prompt for task in part]
        images = sampler(seeds, prompts, guidance=arguments.guidance)
        made += [image.convert("RGB") for image in images]
        print(f"{len(made)} of {len(wanted)} images", flush=True)
    asked = [task.name for task in wanted]
    seen = read(encoder, made, names)
    ceiling = read(encoder, [task.phantom for task in wanted], names)
    shuffled = random.Random(0).sample(asked, len(asked))

    def share(a: Sequence[str], b: Sequence[str] = seen, only: str | None = None) -> float:
        return float(np.mean([x == y for x, y in zip(a, b, strict=True) if only in (None, x)]))

    result = {
        "share_read_as_prompted": share(asked),
        "shuffled_prompts": share(shuffled),
        "encoder_on_fresh_phantoms": share(asked, ceiling),
        "by_class": {name: share(asked, only=name) for name in names},
        "images": len(wanted),
        "guidance": arguments.guidance,
        "steps": sampler.options["steps"],
        "date": now(),
        **commit(),
    }
    write_json(OUT / "prompts.json", result)
    write_png(grid(made[:64], 8), OUT / "prompts.png", synthetic=True)
    for name in ("share_read_as_prompted", "shuffled_prompts", "encoder_on_fresh_phantoms"):
        print(f"{name:28s} {100 * result[name]:5.1f} %  (n = {len(wanted)})")
    for name, value in result["by_class"].items():
        print(f"  {name:26s} {100 * value:5.1f} %")


if __name__ == "__main__":
    main()
