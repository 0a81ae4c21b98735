"""Named vectors of a run's latent space: RUN/latent/vectors/NAME.safetensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from core.errors import UserError
from core.files import atomic_path

if TYPE_CHECKING:  # their names alone are asked for where torch is not loaded
    import torch

NAME = re.compile(r"[\w][\w .-]{0,63}")


def saved_vectors(run: Path) -> list[str]:
    """Their names, in order."""
    return sorted(file.stem for file in _folder(run).glob("*.safetensors"))


def read_vector(run: Path, name: str) -> torch.Tensor:
    """d numbers, on the CPU. Raises UserError where none is saved by that name."""
    saved = saved_vectors(run)
    if name not in saved:
        raise UserError(
            f"'{name}' is no seed, no picture and no saved vector of {run.name} "
            f"(saved: {', '.join(saved) or 'none'})."
        )
    with safe_open(_folder(run) / f"{name}.safetensors", "pt") as tensors:
        vector: torch.Tensor = tensors.get_tensor("latent")
    return vector


def write_vector(run: Path, name: str, vector: torch.Tensor, what: str) -> Path:
    """Keep a vector by name; `what` says how it came about.

    Raises UserError for a name that is no file's name, or that reads like a seed.
    """
    if not NAME.fullmatch(name) or name.replace("-", "").replace(" ", "").isdigit():
        raise UserError(f"'{name}' cannot name a vector; use letters, digits, spaces, - and _.")
    from safetensors.torch import save_file

    file = _folder(run) / f"{name}.safetensors"
    with atomic_path(file) as temporary:
        save_file({"latent": vector.contiguous()}, temporary, {"what": what})
    return file


def _folder(run: Path) -> Path:
    return run / "latent" / "vectors"
