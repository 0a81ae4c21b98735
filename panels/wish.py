"""What a visitor may ask of a model, with limits that the page and the server both keep."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.errors import UserError

MAX_SEED = 2**32 - 1
MAX_TEXT = 1000  # characters; models read 77 tokens
SCHEDULERS = ("ddim", "dpm++", "euler", "euler_a", "unipc")
"""Those of finetune.sample, which is not imported here: it loads torch."""


WEIGHTS = ("newest", "best")


class FieldError(UserError):
    """What is wrong with one field, called as the parameter that takes it."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


@contextmanager
def at(field: str) -> Iterator[None]:
    """A user's mistake inside is one of `field`, where it does not say of which."""
    try:
        yield
    except FieldError:
        raise
    except UserError as error:
        raise FieldError(field, str(error)) from None


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
    """One request. Raises FieldError for what is out of range."""

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
        if isinstance(self.seed, float) and self.seed.is_integer():
            object.__setattr__(self, "seed", int(self.seed))  # 5.0, as some programs write 5
        if not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise FieldError("seed", f"The seed must be a whole number from 0 to {MAX_SEED}.")
        for name in LIMITS:
            check(name, getattr(self, name))
        for name, scale in self.loras.items():
            check("lora_scale", scale, f"The scale of {name}")
        if self.scheduler not in SCHEDULERS:
            sentence = f"There is no scheduler '{self.scheduler}'; choose one from the list."
            raise FieldError("scheduler", sentence)
        if self.weights not in WEIGHTS and not self.weights.isdecimal():
            named = ", ".join(WEIGHTS)
            sentence = f"Weights are {named} or a training step, not '{self.weights}'."
            raise FieldError("weights", sentence)
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative)):
            if len(text) > MAX_TEXT:
                sentence = f"The {name} is longer than {MAX_TEXT} characters; shorten it."
                raise FieldError(name.partition(" ")[0], sentence)

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


def check(name: str, value: Any, title: str | None = None, field: str | None = None) -> None:
    """Raise FieldError where a number of `LIMITS`, of the field of that name, is out of range."""
    limits = LIMITS[name]
    if not isinstance(value, (int, float)) or not limits.low <= value <= limits.high:
        title = title or NAMES[name]
        raise FieldError(field or name, f"{title} must lie from {limits.low:g} to {limits.high:g}.")
