"""Is the latent space in use? Words where it is not."""

from collections.abc import Sequence
from typing import Any

NEWEST = 100  # steps behind a warning
COLLAPSED = 0.02  # share of latent numbers in use below which little is said by them
ADVICE = "try a lower lr, or fp32 instead of fp16"


def warnings_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a person should know, in words, from the newest rows of metrics.jsonl."""
    used = [row["active"] for row in rows if "active" in row]
    if len(used) < 2 * NEWEST:
        return []
    share = sum(used[-NEWEST:]) / NEWEST
    if share >= COLLAPSED:
        return []
    return [
        f"Posterior collapse? Of the latent numbers {share:.1%} carry anything, so every "
        "reconstruction is much the same. Try a lower beta, beta_warmup, free_bits, or a higher "
        "alpha."
    ]
