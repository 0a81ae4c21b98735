"""What a visitor may ask of a model, with limits that the page and the server both keep."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from core.errors import UserError

MAX_SEED = 2**32 - 1
MAX_TEXT = 1000  # characters; models read 77 tokens


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

    prompt: str
    negative: str
    seed: Any
    """A whole number; None where the field is empty."""
    count: int
    steps: int
    guidance: float
    lora_scale: float

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"The seed must be a whole number from 0 to {MAX_SEED}.")
        for name, limits in LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not limits.low <= value <= limits.high:
                raise UserError(f"{NAMES[name]} must lie from {limits.low:g} to {limits.high:g}.")
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative)):
            if len(text) > MAX_TEXT:
                raise UserError(f"The {name} is longer than {MAX_TEXT} characters; shorten it.")

    @property
    def seeds(self) -> list[int]:
        """`count` seeds from `seed` on."""
        return [(self.seed + number) % (MAX_SEED + 1) for number in range(int(self.count))]

    @property
    def options(self) -> dict[str, Any]:
        """Settings of a sampler's call."""
        return {
            "steps": int(self.steps),
            "guidance": float(self.guidance),
            "negative": self.negative.strip(),
            "lora_scale": float(self.lora_scale),
        }
