"""Prompts with choices in them, taken by the seed: the same seed takes the same words.

chest X-ray, {PA|AP} view, __finding__     one of the two; a line of prompts/wildcards/finding.txt
"""

import hashlib
import re
from pathlib import Path

from core.errors import UserError
from core.prompts import read_prompts

CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}|__([a-zA-Z0-9]+(?:[_-][a-zA-Z0-9]+)*)__")
MOST_NESTED = 8  # rounds: a chosen line may hold choices again


def expand(prompt: str, seed: int, folder: Path) -> str:
    """`prompt` with every choice made for `seed`.

    Args:
        folder: holds <name>.txt for every __name__.

    Raises UserError for a name without a file.
    """
    for depth in range(MOST_NESTED):
        number = 0

        def choose(match: re.Match[str], depth: int = depth) -> str:
            nonlocal number
            number += 1
            some = match[1].split("|") if match[1] is not None else lines(folder, match[2])
            place = hashlib.sha256(f"{seed} {depth} {number}".encode()).digest()
            return some[int.from_bytes(place[:8], "big") % len(some)].strip()

        prompt = CHOICE.sub(choose, prompt)
        if not number:
            break
    return prompt


def names(folder: Path) -> list[str]:
    """Of the lists there are."""
    return sorted(path.stem for path in folder.glob("*.txt"))


def lines(folder: Path, name: str) -> list[str]:
    """Of the list `name`. Raises UserError where there is none."""
    file = folder / f"{name}.txt"
    if not file.is_file():
        known = ", ".join(f"__{each}__" for each in names(folder)) or "none"
        raise UserError(f"There is no list for __{name}__; there are {known}.")
    return read_prompts(file)
