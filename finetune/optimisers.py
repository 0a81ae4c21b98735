"""Optimisers, by name; those that are not torch's own are extras."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import get_scheduler
from torch._utils import _flatten_dense_tensors  # as DDP does, a third of cat's time

from core.errors import UserError
from finetune.settings import Optim

EXTRAS = {
    "adamw8bit": ("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
    "prodigy": ("prodigy", "prodigyopt", "Prodigy"),
    "schedule_free": ("schedulefree", "schedulefree", "AdamWScheduleFree"),
}
"""Name: the extra to install, the module and the class."""
MOMENTS = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "schedule_free": 8}
"""Name: bytes kept for each trained float32 number."""


def build_optimiser(
    groups: list[dict[str, Any]], optim: Optim, device: torch.device, packed: bool = False
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), with 8-bit moments (Dettmers et al. 2022), Prodigy
    (Mishchenko and Defazio 2023) or schedule-free AdamW (Defazio et al. 2024).

    Args:
        groups: parameters with what differs from `optim` for them.
        packed: whether AdamW may update those of a group as one vector (`PackedAdamW`).

    Raises UserError where the optimiser's package is missing.
    """
    options = {"lr": optim.lr, "betas": optim.betas, "weight_decay": optim.weight_decay}
    if optim.name == "adamw":
        kind = PackedAdamW if packed else torch.optim.AdamW
        return kind(groups, **options, fused=device.type in ("cpu", "cuda"))
    return extra_optimiser(optim.name)(groups, **options)


def extra_optimiser(name: str) -> Any:
    """The class of an optimiser that is not torch's. Raises UserError where its package is
    missing."""
    extra, module, kind = EXTRAS[name]
    try:
        return getattr(importlib.import_module(module), kind)
    except ImportError:
        raise UserError(
            f'optim.name {name} needs {module.split(".")[0]}: pip install -e ".[{extra}]"'
        ) from None


def build_schedule(optimiser: torch.optim.Optimizer, optim: Optim, steps: int) -> Any:
    """Of the learning rate, over so many steps."""
    return get_scheduler(
        optim.schedule, optimiser, num_warmup_steps=optim.warmup, num_training_steps=steps
    )


def gather(optimiser: torch.optim.Optimizer) -> None:
    """Before clipping: bring the gradients of what is packed together (`PackedAdamW`)."""
    bare = getattr(optimiser, "optimizer", optimiser)  # accelerate's wrapping
    if isinstance(bare, PackedAdamW):
        bare.gather()


def switches(optimiser: torch.optim.Optimizer) -> bool:
    """Whether it is schedule-free, perhaps in accelerate's wrapper, which has all methods."""
    return hasattr(getattr(optimiser, "optimizer", optimiser), "eval")


def look(optimiser: torch.optim.Optimizer, training: bool) -> None:
    """Schedule-free optimisers train one set of weights and are judged by another: switch."""
    switch = getattr(optimiser, "train" if training else "eval", None)
    if switch is not None:
        switch()


class PackedAdamW(torch.optim.AdamW):
    """AdamW over one vector for each group: hundreds of small adapters take as long as one tensor.

    The parameters become views of the vector; their gradients are gathered into its own before
    clipping. Saved is what AdamW over the parameters one by one would save.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        self.packs = [Pack(group["params"]) for group in groups]
        vectors = [
            group | {"params": [pack.vector]}
            for group, pack in zip(groups, self.packs, strict=True)
        ]
        super().__init__(vectors, **options)

    def gather(self) -> None:
        """Raises RuntimeError where a parameter has been put elsewhere."""
        for pack in self.packs:
            pack.gather()

    def zero_grad(self) -> None:
        super().zero_grad()
        for pack in self.packs:
            for parameter in pack.parameters:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        tree = super().state_dict()
        vectors, state, count = tree["state"], {}, 0
        for number, (group, pack) in enumerate(zip(tree["param_groups"], self.packs, strict=True)):
            group["params"] = list(range(count, count + len(pack.shapes)))
            for name, value in vectors.get(number, {}).items():
                for place, part in zip(group["params"], pack.parts(value), strict=True):
                    state.setdefault(place, {})[name] = part
            count += len(pack.shapes)
        return tree | {"state": state}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        state, groups = {}, []
        for number, group in enumerate(tree["param_groups"]):
            saved = [tree["state"][place] for place in group["params"] if tree["state"]]
            if saved:
                state[number] = {name: joined([own[name] for own in saved]) for name in saved[0]}
            groups.append(group | {"params": [number]})
        super().load_state_dict({"state": state, "param_groups": groups})


class Pack:
    """Parameters as views of one, `vector`."""

    @torch.no_grad()
    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.shapes = [parameter.shape for parameter in parameters]
        self.vector = torch.nn.Parameter(joined(parameters))
        for parameter, part in zip(parameters, self.parts(self.vector.detach()), strict=True):
            parameter.data = part
        self.places = [parameter.data_ptr() for parameter in parameters]

    def gather(self) -> None:
        if [parameter.data_ptr() for parameter in self.parameters] != self.places:
            raise RuntimeError("a parameter no longer lies in its vector: it was moved")
        self.vector.grad = joined([parameter.grad for parameter in self.parameters])

    def parts(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Of a vector's numbers, those of each parameter; of a scalar, a copy for each."""
        if vector.ndim == 0:
            return [vector.clone() for _ in self.shapes]
        parts = vector.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their numbers as one vector; of scalars, which are alike, the first."""
    return _flatten_dense_tensors(parts) if parts[0].ndim else parts[0]
