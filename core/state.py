"""Training state on disk: tensors as safetensors, the rest as JSON, never pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR

from core.errors import UserError

TENSORS, STRUCTURE = "state.safetensors", "state.json"


def save_state(tree: Any, folder: Path) -> None:
    """Write nested dicts and lists of tensors and plain values to state.safetensors and state.json,
    and read both back.

    Dict keys may be text or integers, as in an optimiser's state_dict.

    Raises UserError if what is on disk is not what was to be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_plain(tree, tensors, set()))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / TENSORS)
    (folder / STRUCTURE).write_text(structure)
    if not (_holds(folder / TENSORS, tensors) and (folder / STRUCTURE).read_text() == structure):
        raise UserError(
            f"The checkpoint written in {folder.parent} does not read back as it was; those before "
            "it are kept. Make sure of the disk, then run the same command again."
        )


def _plain(value: Any, tensors: dict[str, torch.Tensor], known: set[int]) -> Any:
    """JSON for `value`. Its tensors go into `tensors`, on the CPU and no two in the same memory,
    which safetensors refuses: `known` are the addresses. Others on the CPU are not copied.

    No function in `save_state`: by its own name it would keep all tensors until Python looks for
    such circles, and a few checkpoints later memory would be full.
    """
    if isinstance(value, torch.Tensor):
        name, tensor = str(len(tensors)), value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in known else tensor
        known.add(place)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _plain(item, tensors, known)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_plain(item, tensors, known) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"cannot save a {type(value).__name__} in a checkpoint")


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
    try:
        tensors = load_file(folder / TENSORS)
        return _restored(json.loads((folder / STRUCTURE).read_text()), tensors)
    except Exception as error:
        raise UserError(
            f"The checkpoint {folder} cannot be read ({error}); restore it, or delete that folder "
            "to begin anew."
        ) from None


def _restored(node: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """What `_plain` was given."""
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _restored(item, tensors) for key, item in value}
    if kind == "list":
        return [_restored(item, tensors) for item in value]
    if kind == "tuple":
        return tuple(_restored(item, tensors) for item in value)
    return value


def not_finite(tree: Any, name: str = "") -> str:
    """Of nested dicts and lists, the first tensor with infinity or no number, by name; else ""."""
    if isinstance(tree, torch.Tensor):
        return "" if tree.isfinite().all() else name
    items: Any = tree.items() if isinstance(tree, dict) else ()
    if isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    found = (not_finite(item, f"{name}.{key}" if name else str(key)) for key, item in items)
    return next(filter(None, found), "")


def redraw(schedule: LambdaLR) -> str:
    """More steps, or fewer, give the learning rate another course than a restored schedule has had:
    from here on it is that one. Returns what to say where the rate jumps by that, else ""."""
    was, step = schedule.get_last_lr(), schedule.last_epoch
    courses = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    becomes = [rate * course(step) for rate, course in courses]
    if becomes == was:
        return ""
    for group, rate in zip(schedule.optimizer.param_groups, becomes, strict=True):
        group["lr"] = rate
    schedule._last_lr = becomes
    return (
        f"The learning rate jumps from {was[0]:.3g} to {becomes[0]:.3g} at step {step}: "
        "its schedule is drawn anew"
    )
