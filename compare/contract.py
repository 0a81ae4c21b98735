"""What a score was measured by. Scores of unlike contracts share no column and no rank."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from core.errors import UserError

SCHEMA = 2
"""Of results.json."""


@dataclass(frozen=True)
class Contract:
    """Everything that must agree before two scores may be set side by side."""

    extractor: str
    sha256: str
    """Of the extractor's weights."""
    layer: str
    resize: str
    """The extractor's own, after the pixel path."""
    dtype: str
    size: int
    """Pixels a side that every image was brought to first."""
    mode: str
    """"L" or "RGB", likewise."""
    real: str
    """Fingerprint of the real images."""
    n_real: int
    n_fake: int

    def differences(self, other: "Contract") -> dict[str, tuple[object, object]]:
        """Name -> (mine, the other's) of whatever differs."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def check_alike(contracts: Mapping[str, Contract]) -> None:
    """Raise UserError unless all contracts, by the name of what was scored, are equal."""
    names = list(contracts)
    for name in names[1:]:
        unlike = contracts[names[0]].differences(contracts[name])
        if unlike:
            key, (mine, other) = next(iter(unlike.items()))
            raise UserError(
                f"{names[0]} and {name} were not measured alike ({key}: {mine} and {other}), so "
                "they cannot share a column; score them in one call."
            )
