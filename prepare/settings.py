"""Settings of the sources a set can be prepared from. No heavy imports."""

from dataclasses import dataclass
from typing import Literal

from core.errors import UserError


@dataclass(frozen=True)
class PhantomSettings:
    """Draw chest X-ray phantoms, a bestiary, or both in turn."""

    out: str = "data/phantoms"
    """Folder of the prepared set."""
    kind: Literal["chest", "bestiary", "both"] = "chest"
    """What to draw; chest alone is grey, the others are RGB."""
    count: int = 800
    """Training images."""
    validation: int | None = None
    """Validation images; a tenth of `count` if not given."""
    test: int | None = None
    """Test images; a tenth of `count` if not given."""
    size: int = 64
    """Side of the images in pixels, at least 64."""
    seed: int = 0
    """Draws everything; another seed, other images."""
    animal: str | None = None
    """This animal only; the genera kept out of the bestiary can be had in this way alone."""
    habitat: str | None = None
    """This habitat only."""
    workers: int | None = None
    """Processes; as many as cores if not given."""

    def __post_init__(self) -> None:
        if self.count < 1 or min(self.held_out) < 0:
            raise UserError("--count must be at least 1, --validation and --test at least 0.")
        if self.size < 64:
            raise UserError(f"--size must be at least 64, not {self.size}.")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, not {self.seed}.")
        if self.kind == "chest" and (self.animal or self.habitat):
            raise UserError("--animal and --habitat need --kind bestiary or both.")
        _check_workers(self.workers)

    @property
    def held_out(self) -> tuple[int, int]:
        """How many validation and test images."""
        tenth = self.count // 10
        return (
            tenth if self.validation is None else self.validation,
            tenth if self.test is None else self.test,
        )


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}.")
