"""Captions that say what an animal looks like, from a file of facts such as prompts/facts.yaml."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download
from transformers import CLIPTokenizer

from core.checkup import TOKENS
from core.config import read_yaml
from core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MINI = "models/sd2-mini"


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


def tokens(text: str, base: str | None = None) -> int:
    """Of a base's tokenizer; None: sd2-mini's, which knows the fewest words."""
    return len(_tokenizer(base or MINI).tokenize(text))


@cache
def _tokenizer(base: str) -> CLIPTokenizer:
    """Raises UserError where there is none."""
    for folder in _folders(base):
        files = {file.name for file in (folder / "tokenizer").glob("*")}
        if "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files:
            return CLIPTokenizer.from_pretrained(
                folder / "tokenizer",
                local_files_only=True,
                model_max_length=10**6,  # what is longer than it reads is no cause for a warning
            )
    raise UserError(
        f"--base {base} has no tokenizer here or on the hub; "
        "give a folder in diffusers' format or a hub id like owner/name."
    )


def _folders(base: str) -> Iterator[Path]:
    """Where its files may be: on disk, in the hub's cache, on the hub, which is asked last."""
    folders = [Path(os.path.expanduser(base)), ROOT / base]
    folders = [folder for folder in folders if folder.is_dir()]
    yield from folders
    for cached in (True, False) if not folders else ():
        with suppress(OSError, ValueError):  # not there, or no hub id
            found = snapshot_download(base, allow_patterns=["tokenizer/*"], local_files_only=cached)
            yield Path(found)
