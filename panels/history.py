"""Pictures made before, read back from their own PNGs: nothing else is kept of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.images import png_text
from panels.catalogue import Model
from panels.drawing import Picture

SHOWN = 24
SETTINGS_KEY = "osteon"
"""As core.generate writes it; that module loads torch."""


def newest(folder: Path, models: Sequence[Model]) -> list[Picture]:
    """The last pictures made in the app, newest first, of models that are still there."""
    files = sorted(folder.glob("*/*.png"), key=lambda file: file.stat().st_mtime, reverse=True)
    found = []
    for file in files[:SHOWN]:
        try:
            facts = read_facts(file)
            found.append(Picture(0, model_of(facts, models), file, facts))
        except UserError:
            continue  # of a model that is gone, or no picture of ours
    return found


def read_facts(file: Path) -> dict[str, Any]:
    """What made a picture. Raises UserError where the file does not tell."""
    try:
        facts = json.loads(png_text(file)[SETTINGS_KEY])
        if isinstance(facts, dict) and isinstance(facts.get("seed"), int) and "run" in facts:
            return facts
    except (OSError, KeyError, ValueError):
        pass
    raise UserError("This picture carries no settings of ours; choose a PNG that Osteon made.")


def model_of(facts: dict[str, Any], models: Sequence[Model]) -> Model:
    """The model that made a picture. Raises UserError if it is not here (any more)."""
    for model in models:
        if model.folder.name == facts["run"] and model.family_name == facts.get("family"):
            return model
    raise UserError(f"The model that made it, {facts['run']}, is not here.")
