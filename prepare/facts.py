"""Captions that say what an animal looks like, from a file of facts such as prompts/facts.yaml."""

from pathlib import Path
from typing import NamedTuple

from core.config import read_yaml
from core.errors import UserError
from core.tokens import TOKENS, tokens


class Genus(NamedTuple):
    """What captions may say of it."""

    name: str
    """What a picture without a caption is called."""
    looks: list[str]
    """What a picture can show, the most telling first."""


def read_genus(file: Path, genus: str) -> Genus:
    """Raises UserError where the file has no such genus, or no list of its looks."""
    if not file.is_file():
        raise UserError(f"--facts {file}: no such file; the project's own is prompts/facts.yaml.")
    known = read_yaml(file)
    if genus not in known:
        raise UserError(f"{file} has no facts of {genus}; it knows {', '.join(map(str, known))}.")
    facts = known[genus]
    looks = facts.get("looks") if isinstance(facts, dict) else None
    if not looks or not isinstance(looks, list) or not all(isinstance(x, str) for x in looks):
        raise UserError(f"{file}: {genus} needs `looks: [one, another]`.")
    return Genus(str(facts.get("name", genus)), looks)


def with_facts(caption: str, genus: Genus, base: str | None = None) -> str:
    """ "Dimorphodon at dusk" -> "Dimorphodon at dusk, deep skull, ...": as many looks, in order, as
    the text encoder reads. An empty caption becomes the name and its looks."""
    said = caption.rstrip(".") or genus.name
    for fact in genus.looks:
        longer = f"{said}, {fact}"
        if tokens(longer, base) > TOKENS:
            break
        said = longer
    return said
