"""The pictures of a report: small copies beside results.json, and which of them go where.

Nothing is picked by eye: grids show the lowest seeds that all models share, the rest is drawn by
chance or by a stated order.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from compare.measure import pick
from compare.sources import Fake, Real
from core.images import open_image

SIDE = 256  # pixels of a copy, at most
SEEDS = 8  # a strip
ROWS = 12  # prompts in the table of many prompts
FEW_PROMPTS = 6  # up to so many, each prompt has strips of its own


class Album:
    """Copies of images in one folder, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[Path, str] = {}

    def add(self, image: Path, group: str) -> str:
        """Copy an image, at most SIDE pixels a side, and return its name in the folder."""
        if image not in self._names:
            name = f"{_slug(group)}-{_slug(image.stem)}"
            taken = set(self._names.values())
            while f"{name}.png" in taken:
                name += "x"
            copy = open_image(image, "RGB")
            copy.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            if _is_grey(copy):
                copy = copy.convert("L")
            copy.save(self.folder / f"{name}.png")
            self._names[image] = f"{name}.png"
        return self._names[image]


def add_pairs(closest: dict[str, Any], album: Album) -> dict[str, Any]:
    """`closest` with the pairs' files as names in the album."""

    def copied(pairs: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
        return [
            pair
            | {
                "image": album.add(Path(pair["image"]), label),
                "nearest": album.add(Path(pair["nearest"]), "train"),
                "nearest_file": Path(pair["nearest"]).name,
            }
            for pair in pairs
        ]

    pairs = {
        label: {kind: copied(found, label) for kind, found in kinds.items()}
        for label, kinds in closest["pairs"].items()
    }
    return closest | {"pairs": pairs, "held_out_pairs": copied(closest["held_out_pairs"], "real")}


def sections(real: Real, fakes: Sequence[Fake], album: Album, seed: int) -> list[dict[str, Any]]:
    """Grids: real images first, then generated ones, on the same seeds wherever there are seeds.

    Each section has a title, columns (or none) and rows of cells; a cell is None or has a picture,
    a seed and a prompt.
    """
    chosen = pick(real.held_out, SEEDS, seed, "grid")
    found = [
        {
            "title": "Real images",
            "kind": "strips",
            "caption": f"{len(chosen)} of {len(real.held_out)}, drawn by chance",
            "columns": [],
            "rows": [
                {
                    "label": "real" if real.same else "held out",
                    "caption": "",
                    "cells": [
                        {"picture": album.add(path, "real"), "seed": None, "prompt": ""}
                        for path in chosen.paths
                    ],
                }
            ],
        }
    ]
    seeded = [fake for fake in fakes if None not in fake.seeds]
    outside = [fake for fake in fakes if None in fake.seeds]
    if seeded:
        found += _seeded_sections(seeded, album)
    if outside:
        rows = [_strip(fake, range(min(SEEDS, len(fake.images))), album) for fake in outside]
        found.append(_section("Images without seeds", "the first files of each folder", rows))
    return found


def _seeded_sections(fakes: Sequence[Fake], album: Album) -> list[dict[str, Any]]:
    shared = sorted(set.intersection(*(set(fake.seeds) for fake in fakes)))  # type: ignore[type-var]
    if not shared:
        rows = [_strip(fake, range(min(SEEDS, len(fake.images))), album) for fake in fakes]
        return [_section("Generated images", "the lowest seeds of each; none is shared", rows)]
    prompted = [fake for fake in fakes if any(fake.prompts)]
    prompts = [_prompt_at(prompted, number) for number in shared]
    distinct = list(dict.fromkeys(prompts))
    if not prompted or None in prompts:  # no prompts, or each model has its own
        title = "Generated images"
        return [_section(title, "the same seeds", _strips(fakes, shared[:SEEDS], album))]
    if len(distinct) > FEW_PROMPTS:
        return [_prompt_table(fakes, shared[:ROWS], prompts, album)]
    by_prompt = [
        (str(prompt), [s for s, p in zip(shared, prompts, strict=True) if p == prompt])
        for prompt in distinct
    ]
    shown = fakes if len(distinct) == 1 else prompted
    found = [
        _section(f"“{prompt}”", "the same seeds", _strips(shown, numbers[:SEEDS], album))
        for prompt, numbers in by_prompt
    ]
    rest = [fake for fake in fakes if fake not in shown]
    if rest:
        rows = _strips(rest, shared[:SEEDS], album)
        found.append(_section("Models without prompts", "the same seeds", rows))
    return found


def _prompt_at(fakes: Sequence[Fake], seed: int) -> str | None:
    """The prompt that all the models were given at this seed; None if they differ."""
    said = {fake.prompts[fake.place[seed]] for fake in fakes}
    return said.pop() if len(said) == 1 else None


def _prompt_table(
    fakes: Sequence[Fake], seeds: Sequence[int], prompts: Sequence[str | None], album: Album
) -> dict[str, Any]:
    """A row for each prompt, a column for each model."""
    rows = [
        {
            "label": f"seed {seed}",
            "caption": prompt,
            "cells": [_cell(fake, fake.place[seed], album) for fake in fakes],
        }
        for seed, prompt in zip(seeds, prompts, strict=False)
    ]
    return {
        "title": "The same prompts and seeds",
        "kind": "table",
        "caption": "the lowest seeds that all have",
        "columns": [fake.label for fake in fakes],
        "rows": rows,
    }


def _section(title: str, caption: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"title": title, "kind": "strips", "caption": caption, "columns": [], "rows": rows}


def _strips(fakes: Sequence[Fake], seeds: Sequence[int], album: Album) -> list[dict[str, Any]]:
    return [_strip(fake, [fake.place[seed] for seed in seeds], album) for fake in fakes]


def _strip(fake: Fake, numbers: Sequence[int], album: Album) -> dict[str, Any]:
    prompts = {fake.prompts[i] for i in numbers}
    return {
        "label": fake.label,
        "caption": prompts.pop() if len(prompts) == 1 else "",
        "cells": [_cell(fake, i, album) for i in numbers],
    }


def _cell(fake: Fake, number: int, album: Album) -> dict[str, Any]:
    return {
        "picture": album.add(fake.images.paths[number], fake.label),
        "seed": fake.seeds[number],
        "prompt": fake.prompts[number],
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()
