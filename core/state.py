"""Training state on disk: tensors as safetensors, the rest as JSON, never pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from core.errors import UserError

TENSORS, STRUCTURE = "state.safetensors", "state.json"


def save_state(tree: Any, folder: Path) -> None:
    """Write nested dicts and lists of tensors and plain values to state.safetensors and state.json,
    and read both back.

    Dict keys may be text or integers, as in an optimiser's state_dict.

    Raises UserError if what is on disk is not what was to be written.
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

    structure = json.dumps(plain(tree))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / TENSORS)
    (folder / STRUCTURE).write_text(structure)
    if not (_holds(folder / TENSORS, tensors) and (folder / STRUCTURE).read_text() == structure):
        raise UserError(
            f"The checkpoint written in {folder.parent} does not read back as it was; those before "
            "it are kept. Make sure of the disk, then run the same command again."
        )


def _holds(file: Path, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether a file has just these tensors, bit for bit. One at a time is in memory."""

    def bits(tensor: torch.Tensor) -> torch.Tensor:  # in which what is not a number is equal too
        return tensor.flatten().view(torch.uint8)

    try:
        with safe_open(file, "pt") as saved:
            return set(saved.keys()) == tensors.keys() and all(
                torch.equal(bits(saved.get_tensor(name)), bits(tensor))
                for name, tensor in tensors.items()
            )
    except SafetensorError:
        return False


def load_state(folder: Path) -> Any:
    """Read back what `save_state` wrote, tensors on the CPU. Raises UserError if it is damaged."""

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

    try:
        tensors = load_file(folder / TENSORS)
        return restore(json.loads((folder / STRUCTURE).read_text()))
    except Exception as error:
        raise UserError(
            f"The checkpoint {folder} cannot be read ({error}); restore it, or delete that folder "
            "to begin anew."
        ) from None
