"""Weights in parts on several devices (PyTorch's FSDP2): gathered for files, dealt out again."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(tree: Any) -> Any:
    """Nested dicts and lists with every tensor whole, on the CPU if it was in parts.

    All processes must call it, with the same tree.
    """
    if isinstance(tree, DTensor):
        return tree.full_tensor().detach().cpu()
    if isinstance(tree, dict):
        return {key: gathered(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(gathered(item) for item in tree)
    return tree


def dealt(tree: Any, like: Any) -> Any:
    """`tree` with its tensors in parts, each where the tensor in its place in `like` has them.

    A tensor in `like` stands for all of its shape under that place, as a weight for its moments.
    """
    if isinstance(tree, torch.Tensor):
        if isinstance(like, DTensor) and tree.shape == like.shape:
            return distribute_tensor(tree.to(like.device), like.device_mesh, like.placements)
        return tree
    if isinstance(tree, dict):
        keys = like if isinstance(like, dict) else dict.fromkeys(tree, like)
        return {key: dealt(item, keys.get(key)) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = like if isinstance(like, (list, tuple)) else [like] * len(tree)
        return type(tree)(dealt(*pair) for pair in zip(tree, items, strict=True))
    return tree


def places(item: Any) -> Any:
    """What `dealt` needs to know of a model, an average of weights or an optimiser."""
    if isinstance(item, torch.optim.Optimizer):
        weights = [weight for group in item.param_groups for weight in group["params"]]
        return {"state": dict(enumerate(weights))}
    return item.state_dict()
