"""Training state on disk: tensors as safetensors, the rest as JSON, never pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from core.errors import UserError


def save_state(tree: Any, folder: Path) -> None:
    """Write nested dicts and lists of tensors and plain values to state.safetensors and state.json.

    Dict keys may be text or integers, as in an optimiser's state_dict.
    """
    tensors: dict[str, torch.Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": [[key, plain(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [plain(item) for item in value]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return {"value": value}
        raise TypeError(f"cannot save a {type(value).__name__} in a checkpoint")

    structure = plain(tree)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(structure))


def load_state(folder: Path) -> Any:
    """Read back what `save_state` wrote, tensors on the CPU. Raises UserError if it is damaged."""
    try:
        tensors = load_file(folder / "state.safetensors")
        structure = json.loads((folder / "state.json").read_text())
    except Exception as error:
        raise UserError(
            f"The checkpoint {folder} cannot be read ({error}); delete that folder and run the "
            "same command again to go on from the one before it."
        ) from None

    def restore(node: dict[str, Any]) -> Any:
        ((kind, value),) = node.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "dict":
            return {key: restore(item) for key, item in value}
        if kind == "list":
            return [restore(item) for item in value]
        if kind == "tuple":
            return tuple(restore(item) for item in value)
        return value

    return restore(structure)
