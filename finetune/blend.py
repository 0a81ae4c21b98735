"""Several LoRA runs on one base in memory: switched and mixed without loading the base again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline

from core.errors import UserError
from core.files import read_json
from finetune.adapters import FILE
from finetune.models import Place
from finetune.weights import CARD

FOLDERS = {"newest": "weights", "best": "best"}
"""Of a run: its last weights, and those that measured best."""


class Blend:
    """The adapters in one pipeline, each from the weights/ of a LoRA run."""

    def __init__(self, pipeline: StableDiffusionPipeline, place: Place, own: Path | None) -> None:
        """
        Args:
            place: the base in the pipeline.
            own: weights/ of the run whose adapters are loaded already, named after `name_of`.
        """
        self.pipeline = pipeline
        self.place = place
        self.own = own
        self._loaded = [own] if own else []

    @property
    def plain(self) -> bool:
        """Whether the pipeline is its base and adapters, and nothing else."""
        return self.own is None or mixes(self.own, card_of(self.own))

    def set(self, scale: float, loras: Mapping[str, float]) -> None:
        """Switch to the run's own adapters at `scale` and those of `loras`, run -> scale.

        Raises UserError for a run without adapters, or on another base.
        """
        wanted = {self.own: scale} if self.own else {}
        for run, share in loras.items():
            weights = Path(run) / "weights"
            if weights in wanted:
                raise UserError(f"{run} is mixed in twice; set its scale once.")
            check_fits(weights, self.place)
            wanted[weights] = share
        if list(wanted) != self._loaded:
            self._load(list(wanted))
        if wanted:
            names = [name_of(number) for number in range(len(wanted))]
            self.pipeline.set_adapters(names, list(wanted.values()))

    @property
    def choice(self) -> list[str]:
        """Which of the run's own weights there are to pick from."""
        if self.own is None:
            return []
        folders = {name: self.own.with_name(folder) for name, folder in FOLDERS.items()}
        return [name for name, own in folders.items() if mixes(own, card_of(own))]

    def pick(self, name: str) -> None:
        """Take the run's "newest" adapters, or the "best" ones. Raises UserError for others."""
        if name not in self.choice or self.own is None:
            raise UserError(f"--weights '{name}' should be one of: {', '.join(self.choice)}.")
        own = self.own.with_name(FOLDERS[name])
        if own != self.own:
            self.switch(own)

    def switch(self, own: Path | None) -> None:
        """Make `own` the run's own adapters; None: the base as it is."""
        if own is not None:
            check_fits(own, self.place)
        self.own = own
        self._load([own] if own else [])

    def _load(self, wanted: list[Path]) -> None:
        self.pipeline.unload_lora_weights()  # takes the wrappers off too: memory stays level
        self._loaded = []
        for number, weights in enumerate(wanted):
            self.pipeline.load_lora_weights(weights, adapter_name=name_of(number))
        self._loaded = wanted


def name_of(number: int) -> str:
    """Of the adapter at a place: 0 is the run's own."""
    return f"osteon{number or ''}"


def card_of(weights: Path) -> dict[str, Any]:
    """What a run's weights were trained with; {} where that is not written."""
    file = weights / CARD
    card: dict[str, Any] = read_json(file) if file.exists() else {}
    return card


def mixes(weights: Path, card: Mapping[str, Any]) -> bool:
    """Whether a run adds adapters to its base and nothing else: no new word, no other schedule."""
    others = {f.name for f in weights.glob("*.safetensors")} - {FILE}
    return (weights / FILE).exists() and not others and not card.get("zero_terminal_snr")


def check_fits(weights: Path, place: Place) -> None:
    """Raise UserError unless the adapters in `weights` belong to the base at `place`."""
    card = card_of(weights)
    if not mixes(weights, card):
        raise UserError(f"{weights.parent} holds no LoRA that could be mixed with others.")
    if card.get("base_identity") != place.identity:
        raise UserError(
            f"{weights.parent} was tuned from {card.get('base')}, which is not the base here; "
            "only LoRA runs on one base can be mixed."
        )
