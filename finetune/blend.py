"""Several LoRA runs on one base in memory: switched and mixed without loading the base again.

So are the weights that one run kept at several steps, be they adapters or all of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from diffusers.utils.peft_utils import set_adapter_layers

from core.errors import UserError
from core.runs import kept_weights
from finetune.adapters import FILE
from finetune.models import Place, open_pipeline
from finetune.weights import CARD, load_adapters, open_tuned, read_card


class Blend:
    """What is in one pipeline: its base, and adapters, each from the weights/ of a LoRA run."""

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        place: Place,
        own: Path | None,
        tuned: Path | None = None,
    ) -> None:
        """
        Args:
            place: the base in the pipeline.
            own: weights/ of the run whose adapters are loaded already, named after `name_of`.
            tuned: weights/ of a run that adds other things to the base: a new word, a schedule.
        """
        self.pipeline = pipeline
        self.place = place
        self.own = own
        self.tuned = tuned
        self._loaded = [_written(own)] if own else []
        self._whole = place.folder
        """Whose UNet and text encoder the adapters come upon: the base's, or another step's."""

    @property
    def plain(self) -> bool:
        """Whether the pipeline is its base and adapters, and nothing else."""
        return self.tuned is None

    def set(self, scale: float, loras: Mapping[str, float]) -> None:
        """Switch to the run's own adapters at `scale` and those of `loras`, run -> scale. One of
        scale 0 is off: of a DoRA peft would leave the magnitudes.

        Raises UserError for a run without adapters, or on another base.
        """
        wanted = {self.own: scale} if self.own else {}
        for run, share in loras.items():
            weights = Path(run) / "weights"
            if weights in wanted:
                raise UserError(f"{run} is mixed in twice; set its scale once.")
            check_fits(weights, self.place)
            wanted[weights] = share
        if [*map(_written, wanted)] != self._loaded:
            self._load(list(wanted))
        shares = {name_of(number): share for number, share in enumerate(wanted.values()) if share}
        for network in (self.pipeline.unet, self.pipeline.text_encoder):
            set_adapter_layers(network, enabled=bool(shares))
        if shares:
            self.pipeline.set_adapters([*shares], [*shares.values()])

    @property
    def choice(self) -> dict[str, Path]:
        """The run's own weights that there are to pick from, by name (see `kept_weights`)."""
        found = kept_weights((self.tuned or self.own or self.place.folder).parent)
        if self.tuned is not None:
            return {name: folder for name, folder in found.items() if (folder / CARD).exists()}
        if self.own is None:
            return {name: f for name, f in found.items() if (f / "model_index.json").exists()}
        return {name: folder for name, folder in found.items() if mixes(folder, read_card(folder))}

    def pick(self, name: str) -> None:
        """Take the run's weights of that name. Raises UserError where there are none."""
        choice = self.choice
        if name not in choice:
            raise UserError(f"--weights '{name}' should be one of: {', '.join(choice)}.")
        folder = choice[name]
        if self.tuned is not None:
            if folder != self.tuned:
                self._open(folder)
        elif self.own is None:
            self._replace(folder)
        elif folder != self.own:
            self.switch(folder)

    def switch(self, own: Path | None) -> None:
        """Make `own` the run's own adapters; None: the base as it is."""
        if own is not None:
            check_fits(own, self.place)
        self.own = own
        self._replace(self.place.folder)
        self._load([own] if own else [])

    def _open(self, tuned: Path) -> None:
        """The base, and all that `tuned` adds to it."""
        fresh = open_tuned(self.place, tuned, read_card(tuned), name_of(0))
        fresh.to(self.pipeline.device)
        names = ("unet", "text_encoder", "tokenizer", "scheduler")
        self.pipeline.register_modules(**{name: getattr(fresh, name) for name in names})
        self.tuned = tuned
        self.own = tuned if (tuned / FILE).exists() else None
        self._loaded = [_written(tuned)] if self.own else []

    def _replace(self, folder: Path) -> None:
        """UNet and text encoder by those in `folder`, in place."""
        if folder == self._whole:
            return
        self._load([])  # under adapters the networks' weights have other names
        fresh = open_pipeline(folder)
        self.pipeline.unet.load_state_dict(fresh.unet.state_dict())
        self.pipeline.text_encoder.load_state_dict(fresh.text_encoder.state_dict())
        self._whole = folder

    def _load(self, wanted: list[Path]) -> None:
        self.pipeline.unload_lora_weights()  # takes the wrappers off too: memory stays level
        self._loaded = []
        written = [*map(_written, wanted)]
        for number, weights in enumerate(wanted):
            load_adapters(self.pipeline, weights, name_of(number))
        self._loaded = written


def _written(weights: Path) -> tuple[Path, int]:
    """Adapters, and when they were written (ns): a run that goes on writes others."""
    return weights, (weights / FILE).stat().st_mtime_ns


def name_of(number: int) -> str:
    """Of the adapter at a place: 0 is the run's own."""
    return f"osteon{number or ''}"


def mixes(weights: Path, card: Mapping[str, Any]) -> bool:
    """Whether a run adds adapters to its base and nothing else: no new word, no other schedule."""
    others = {f.name for f in weights.glob("*.safetensors")} - {FILE}
    return (weights / FILE).exists() and not others and not card.get("zero_terminal_snr")


def check_fits(weights: Path, place: Place) -> None:
    """Raise UserError unless the adapters in `weights` belong to the base at `place`."""
    card = read_card(weights)
    if not mixes(weights, card):
        raise UserError(f"{weights.parent} holds no LoRA that could be mixed with others.")
    if card.get("base_identity") != place.identity:
        raise UserError(
            f"{weights.parent} was tuned from {card.get('base')}, which is not the base here; "
            "only LoRA runs on one base can be mixed."
        )
