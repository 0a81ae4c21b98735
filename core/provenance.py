"""Where a result comes from: the command, the code, the packages, the moment. No torch."""

import contextlib
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "pillow")
SECRET = "--hub_token"


def public(words: list[str]) -> list[str]:
    """A command line without what nobody else should read: diffusers' scripts take a token."""
    kept = list(words)
    for place, word in enumerate(words):
        if word.startswith(f"{SECRET}="):
            kept[place] = f"{SECRET}=..."
        elif place and words[place - 1] == SECRET:
            kept[place] = "..."
    return kept


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> dict[str, Any]:
    """The project's git commit and whether the tree was dirty; empty outside git."""
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
