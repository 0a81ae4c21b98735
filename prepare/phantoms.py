"""Chest X-ray phantoms and a bestiary, drawn from a seed, as a prepared set.

osteon prepare phantoms --kind chest --count 800 --size 64 --out data/phantoms
osteon prepare phantoms --kind bestiary --animal Dimorphodon --count 5 --test 20 --out data/dim
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.config import parse
from core.errors import UserError, command
from core.sets import SPLITS
from prepare.settings import PhantomSettings


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Prepare a set of phantoms."""
    settings, dry_run = parse(PhantomSettings, argv, "Draw chest X-ray phantoms and a bestiary.")
    from prepare.drawing import draw
    from prepare.writing import say_result, write_set

    mode = "L" if settings.kind == "chest" else "RGB"
    items = phantom_items(settings)
    if dry_run:
        print(f"Would draw {len(items)} images ({settings.size}x{settings.size}, {mode}).")
        return
    facts = {
        "source": f"drawn by osteon prepare phantoms, kind {settings.kind}",
        "licence": "CC0-1.0",
        "citation": "",
        "domain": settings.kind,
        "size": settings.size,
        "mode": mode,
        "split_rule": "every split draws its images from seeds of its own",
        "notes": "Drawings, not patients and not reconstructions; never for medicine.",
    }
    make = partial(draw, size=settings.size, mode=mode)
    out = Path(settings.out)
    say_result(out, write_set(out, items, make, settings, facts))


def phantom_items(settings: PhantomSettings) -> list[Any]:
    """One `writing.Item` per image. With kind "both", chests and animals take turns.

    Raises UserError for an animal or a habitat that cannot be drawn.
    """
    from prepare.drawing import CHEST_COLUMNS, SCENE_COLUMNS, chest_row, scene_row
    from prepare.writing import Item

    empty = dict.fromkeys((*CHEST_COLUMNS, *SCENE_COLUMNS))
    items = []
    for split, count in zip(SPLITS, (settings.count, *settings.held_out), strict=True):
        for number in range(count):
            chest = settings.kind == "chest" or (settings.kind == "both" and number % 2 == 0)
            seed = seed_of(settings.seed, "chest" if chest else "bestiary", split, number)
            if chest:
                subject = _chest(seed)
                row = chest_row(subject)
            else:
                subject = _scene(seed, settings)
                row = scene_row(subject)
            if settings.kind == "both":
                row = {"text": row["text"], "domain": row["domain"], **empty, **row}
            items.append(Item(f"{number:06d}", split, row, subject))
    return items


def seed_of(seed: int, kind: str, split: str, number: int) -> int:
    """A seed for one image, below 2^48: more images of a set leave the first ones as they are."""
    digest = hashlib.sha256(repr((seed, kind, split, number)).encode()).digest()
    return int.from_bytes(digest[:6], "little")


def _chest(seed: int) -> Any:
    from prepare.chest import sample_chest

    return sample_chest(seed)


def _scene(seed: int, settings: PhantomSettings) -> Any:
    from dataclasses import replace

    from prepare.bestiary import check_scene, sample_scene

    try:
        scene = sample_scene(seed, settings.animal)
        asked = {"habitat": settings.habitat, "style": settings.style}
        scene = replace(scene, **{name: value for name, value in asked.items() if value})
        check_scene(scene)
    except ValueError as error:
        raise UserError(str(error)) from None
    return scene


if __name__ == "__main__":
    main()
