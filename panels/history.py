"""Pictures made before, read back from their own PNGs: nothing else is kept of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.images import png_text
from panels.catalogue import Model
from panels.drawing import Mix, Picture

SHOWN = 24
SETTINGS_KEY = "osteon"
"""As core.generate writes it; that module loads torch."""
NO_OPTIONS = {
    *("seed", "prompt", "run", "family", "trained_steps", "dtype"),
    *("loras", "mix", "label_height"),
}
"""Facts that are no plain settings of the sampler's call; all others are."""
MOST_MIXED = 8  # seeds or prompts of a mix


def newest(folder: Path, models: Sequence[Model]) -> list[Picture]:
    """The last pictures made in the app, newest first, of models that are still there."""
    names = {model.folder.name for model in models}  # grids and films lie beside theirs
    files = (file for name in names for file in (folder / name).glob("*.png"))
    found: list[Picture] = []
    for file in sorted(files, key=_written, reverse=True):
        if len(found) == SHOWN:
            break
        try:
            found.append(picture_of(file, models))
        except UserError:
            continue  # of a model that is gone, or no picture of ours
    return found


def picture_of(file: Path, models: Sequence[Model]) -> Picture:
    """A picture with what made it. Raises UserError for a model that is gone, or a strange file."""
    facts = read_facts(file)
    model, loras = model_of(facts, models), mixed_in(facts)
    here = tuple(run for run in models if loras.get(run.name))
    return Picture(0, model, file, facts, here)


def _written(file: Path) -> float:
    """When; 0 where it was deleted meanwhile."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def read_facts(file: Path) -> dict[str, Any]:
    """What made a picture. Raises UserError where the file does not tell, or not as we do."""
    try:
        facts = json.loads(png_text(file)[SETTINGS_KEY])
        kinds = {"seed": int, "run": str, "prompt": str}
        whole = all(isinstance(facts[name], kind) for name, kind in kinds.items())
    except (OSError, KeyError, ValueError, TypeError):
        whole = False
    if not whole:
        raise UserError("This picture carries no settings of ours; choose a PNG that Osteon made.")
    try:
        mix_of(facts), mixed_in(facts)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise UserError("The settings in this picture cannot be read.") from None
    return dict(facts)


def options_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the sampler's call, but for `loras`: all that the sampler listed when it drew."""
    return {
        name: value
        for name, value in facts.items()
        if name not in NO_OPTIONS and not (name == "label" and isinstance(value, int))
    }


def mixed_in(facts: Mapping[str, Any]) -> dict[str, float]:
    """LoRA runs by name, and their scales."""
    return {str(run): float(scale) for run, scale in (facts.get("loras") or {}).items()}


def is_mix(facts: Mapping[str, Any]) -> bool:
    """Whether a picture lies between seeds or prompts, or at a saved vector: is no seed's own."""
    mix = mix_of(facts)
    alone = mix is None or (len(mix.seeds) == len(mix.prompts) == 1)
    return mix is not None and not (alone and isinstance(mix.seeds[0][0], int))


def mix_of(facts: Mapping[str, Any]) -> Mix | None:
    """Seeds and prompts between which a picture lies; None of one seed's own."""
    if "mix" not in facts:
        return None
    seeds, prompts = (
        tuple((key, float(weight)) for key, weight in facts["mix"][name])
        for name in ("seeds", "prompts")
    )
    if not 0 < len(seeds) <= MOST_MIXED or not 0 < len(prompts) <= MOST_MIXED:
        raise ValueError(f"mix of {len(seeds)} seeds and {len(prompts)} prompts")
    return Mix(seeds, prompts)


def model_of(facts: dict[str, Any], models: Sequence[Model]) -> Model:
    """The model that made a picture. Raises UserError if it is not here (any more)."""
    for model in models:
        if model.folder.name == facts["run"] and model.family_name == facts.get("family"):
            return model
    raise UserError(f"The model that made it, {facts['run']}, is not here.")
