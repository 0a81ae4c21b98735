"""What a training run will need, worked out before it starts."""

import shutil
from pathlib import Path

import torch
from torch import nn

from core.errors import UserError
from core.files import disk_used, half_written, nearest_folder
from core.runs import WRITTEN

STATE_COPIES = 3  # weights and Adam's two moments
BYTES = 4  # float32
SAVED = ("checkpoints/step-*", "weights*", "best")
"""In a run folder: what training writes anew and again."""


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def activation_bytes(module: nn.Module, *inputs: tuple[int, ...] | torch.Tensor) -> int:
    """Bytes of all float32 layer outputs of one forward pass.

    Args:
        module: made under `torch.device("meta")`: nothing is computed.
        inputs: shapes of float32 tensors, or tensors on "meta".
    """
    total = 0

    def count(layer: nn.Module, _: object, output: object) -> None:
        nonlocal total
        if isinstance(output, torch.Tensor) and not getattr(layer, "inplace", False):
            total += output.numel() * BYTES

    layers = [layer for layer in module.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module(*(x if torch.is_tensor(x) else torch.empty(x, device="meta") for x in inputs))
    for hook in hooks:
        hook.remove()
    return total


def checkpoint_bytes(modules: list[nn.Module]) -> int:
    """Of one checkpoint: weights and Adam's state."""
    return STATE_COPIES * BYTES * sum(count_parameters(module) for module in modules)


def check_disk(folder: Path, needed: int, again: int) -> None:
    """Raise UserError if too few bytes are free where the run `folder` lies, or will lie, and where
    that would be in a file.

    Args:
        needed: of its checkpoints and weights at most; those that it has need no more room. What a
            killed process left half written goes before any is written.
        again: of a checkpoint and of weights, which are written before older ones go.
    """
    place = nearest_folder(folder, "run_dir")
    goes = sum(disk_used(path) for part in WRITTEN for path in half_written(folder / part))
    free = goes + shutil.disk_usage(place).free  # in this order: another process may tidy up
    there = sum(disk_used(path) for part in SAVED for path in folder.glob(part))
    more = max(needed - there, min(needed, again))
    if free < more:
        raise UserError(
            f"{folder} needs about {more / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
            "make room or give another --run_dir."
        )
