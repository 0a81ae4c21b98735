"""Which models and reports there are, from small text files: no model is loaded to list it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import read_yaml
from core.errors import UserError
from core.families import FAMILIES, Family, family_of
from core.files import read_json
from core.prompts import read_prompts
from core.radiographs import RADIOGRAPH
from core.sets import SPLITS, parted

CHEST_SET = re.compile(r'"domain": "(?:chest|both)"')
"""In the set.json of images that are X-rays, whatever their captions say."""
CARD = "osteon.json"
"""Beside the weights of a diffusion model: what they were trained with."""
MAX_PROMPTS = 4  # shown under the prompt
HEAD_BYTES = 20_000  # of a text file, read to learn what a model was trained on


@dataclass(frozen=True)
class Model:
    """A trained run, or a model folder in diffusers' format."""

    name: str
    """Relative to the project's root: "runs/demo-chest-gan", "models/sd2-mini"."""
    folder: Path
    family_name: str
    """Key of `core.families.FAMILIES`."""
    status: str
    """Of the run: "finished", "running", "stopped", "failed"; "finished" for a model folder."""
    lora: bool
    """Whether it is LoRA adapters on a base, so that a scale of 0 is the base itself."""
    prompts: tuple[str, ...]
    """Some that it was trained or previewed with, or those of prompts/<its folder's name>.txt."""
    radiographs: bool
    """Whether it draws X-rays (perhaps among other things)."""
    data: tuple[str, ...] = ()
    """What it was trained on, as its settings name it: "data/x", "data/x:test"; (): unknown. More
    than one where it learned several subjects."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.family_name]

    @property
    def label(self) -> str:
        """Its name, and how far its training came where it was not finished."""
        return self.name if self.status == "finished" else f"{self.name} ({self.status})"


def find_models(root: Path) -> list[Model]:
    """All models that have weights: families in the table's order, the newest of each first."""
    folders = [p.parent for p in root.glob("models/*/model_index.json")]
    folders += [p.parent for p in root.glob("runs/*/run.json") if (p.parent / "weights").is_dir()]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    models = [model for folder in folders if (model := _read(folder, root)) is not None]
    order = list(FAMILIES)
    return sorted(models, key=lambda model: order.index(model.family_name))


def pick(models: list[Model], name: str | None) -> Model:
    """The model called `name`. Raises UserError if it is none of `models`."""
    for model in models:
        if model.name == name:
            return model
    if not models:
        raise UserError("There is no model yet; run `make demo`, then reload this page.")
    if not name:
        raise UserError("Choose a model first.")
    raise UserError(f"There is no model '{name}' here; choose one from the list.")


def find_reports(root: Path) -> list[Path]:
    """reports/<name>/report.html, the newest first."""
    found = (root / "reports").glob("*/report.html")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def prompts_in(file: Path) -> list[str]:
    """Of a file of prompts; none where it holds none or cannot be read."""
    try:
        return read_prompts(file)
    except (UserError, OSError, UnicodeDecodeError):
        return []


def of_radiographs(folder: Path, root: Path, data: Sequence[str]) -> bool:
    """Whether the texts of a model's folder, or those of the sets `data`, speak of X-rays."""
    texts = _known(folder, root, data)
    return any(RADIOGRAPH.search(text) or CHEST_SET.search(text) for text in texts)


def _read(folder: Path, root: Path) -> Model | None:
    """A model, or None for a folder that is damaged, of an unknown family, or part of a model."""
    try:
        family = family_of(folder)
        weights = folder / "weights" if (folder / "run.json").exists() else folder
        if family == "base" and not (weights / "model_index.json").exists():
            return None  # an autoencoder on the way to a base
        facts = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
        settings = read_yaml(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
        data = data_of(settings)
        prompts = _prompts(folder, root, settings)
    except UserError:
        return None
    return Model(
        name=folder.relative_to(root).as_posix(),
        folder=folder,
        family_name=family,
        status=str(facts.get("status", "finished")),
        lora=settings.get("lora") is not None,
        prompts=prompts,
        radiographs=of_radiographs(folder, root, data),
        data=data,
    )


def data_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """Of the first subject and of all others."""
    parts = [settings, *(settings.get("concepts") or [])]
    return tuple(str(part["data"]) for part in parts if part.get("data"))


def _prompts(folder: Path, root: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    cards = [folder / "weights" / CARD, folder / CARD]
    found = [read_json(card).get("prompts") for card in cards if card.exists()]
    found += [settings.get("preview_prompts"), [settings.get("prompt")]]
    found.append(prompts_in(root / "prompts" / f"{folder.name}.txt"))
    prompts = next((some for some in found if some and all(some)), [])
    return tuple(str(prompt) for prompt in prompts[:MAX_PROMPTS])


def _known(folder: Path, root: Path, data: Sequence[str]) -> Iterator[str]:
    """Texts that tell what a model draws: card, prompts, source and captions of its images."""
    files = [folder / "README.md", folder / CARD, folder / "weights" / CARD]
    files.append(folder / "config.yaml")
    for name in data:
        images = parted(root / name)[0]
        files += [images / "set.json", *(images / s / "metadata.jsonl" for s in SPLITS)]
    for file in files:
        if file.is_file():
            with file.open("rb") as content:
                yield content.read(HEAD_BYTES).decode("utf-8", errors="replace")
