"""How many tokens of a base a caption is."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import CLIPTokenizer

from core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MINI = "models/sd2-mini"
TOKENS = 75  # that a text encoder reads, besides start and end


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
