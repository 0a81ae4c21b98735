"""What a visitor may ask of a model, with limits that the page and the server both keep."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.errors import UserError

MAX_SEED = 2**32 - 1
MAX_TEXT = 1000  # characters; models read 77 tokens
SCHEDULERS = ("ddim", "dpm++", "euler", "euler_a", "unipc")
"""Those of finetune.sample, which is not imported here: it loads torch."""


WEIGHTS = ("newest", "best")


class Limits(NamedTuple):
    """Of one number: lowest, highest, default, and the slider's step."""

    low: float
    high: float
    default: float
    step: float


LIMITS = {
    "count": Limits(1, 16, 4, 1),
    "steps": Limits(1, 150, 25, 1),
    "guidance": Limits(0.0, 20.0, 4.0, 0.5),
    "lora_scale": Limits(0.0, 2.0, 1.0, 0.05),
}
NAMES = {
    "count": "The number of images",
    "steps": "The number of steps",
    "guidance": "The guidance",
    "lora_scale": "The LoRA scale",
}


@dataclass(frozen=True)
class Wish:
    """One request. Raises UserError for what is out of range."""

    prompt: str = ""
    negative: str = ""
    seed: Any = 0
    """A whole number; None where the field is empty."""
    count: float = LIMITS["count"].default
    steps: float = LIMITS["steps"].default
    guidance: float = LIMITS["guidance"].default
    scheduler: str = SCHEDULERS[0]
    lora_scale: float = LIMITS["lora_scale"].default
    loras: Mapping[str, float] = field(default_factory=dict)
    """Names of further LoRA runs to mix in, and their scales."""
    weights: str = WEIGHTS[0]
    """Of a run that kept several: its last, those that measured best, or those of a step."""

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"The seed must be a whole number from 0 to {MAX_SEED}.")
        for name in LIMITS:
            check(name, getattr(self, name))
        for name, scale in self.loras.items():
            check("lora_scale", scale, f"The scale of {name}")
        if self.scheduler not in SCHEDULERS:
            raise UserError(f"There is no scheduler '{self.scheduler}'; choose one from the list.")
        if self.weights not in WEIGHTS and not self.weights.isdecimal():
            named = ", ".join(WEIGHTS)
            raise UserError(f"Weights are {named} or a training step, not '{self.weights}'.")
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative)):
            if len(text) > MAX_TEXT:
                raise UserError(f"The {name} is longer than {MAX_TEXT} characters; shorten it.")

    @property
    def seeds(self) -> list[int]:
        """`count` seeds from `seed` on."""
        return [(self.seed + number) % (MAX_SEED + 1) for number in range(int(self.count))]

    @property
    def options(self) -> dict[str, Any]:
        """Settings of a sampler's call, but for `loras`."""
        return {
            "steps": int(self.steps),
            "guidance": float(self.guidance),
            "negative": self.negative.strip(),
            "scheduler": self.scheduler,
            "lora_scale": float(self.lora_scale),
            "weights": self.weights,
        }


def check(name: str, value: Any, title: str | None = None) -> None:
    """Raise UserError where a number of `LIMITS` is out of range."""
    limits = LIMITS[name]
    if not isinstance(value, (int, float)) or not limits.low <= value <= limits.high:
        title = title or NAMES[name]
        raise UserError(f"{title} must lie from {limits.low:g} to {limits.high:g}.")
