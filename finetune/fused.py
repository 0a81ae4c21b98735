"""A network's linear layers and attention, replaced by faster ones that compute the same.

Parameters, their names and what is saved stay as they are.
"""

from functools import partial
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from peft.tuners.lora import Linear

from finetune import low_rank
from finetune.adapters import NAME
from finetune.attention import attend
from finetune.settings import Lora


def fuse(network: torch.nn.Module, lora: Lora) -> None:
    """Replace the forward pass of the network's plain and rslora Linear adapters with dropout 0,
    and where oneDNN is faster of its other linear layers that are frozen. For float32 only.
    """
    adapted = [layer for layer in network.modules() if isinstance(layer, Linear)]
    parts = {part for layer in adapted for part in layer.modules()}
    for layer in network.modules():
        if type(layer) is torch.nn.Linear and layer not in parts:
            weight = layer.weight
            if low_rank.ONEDNN and weight.is_cpu and not weight.requires_grad:
                layer.forward = partial(_forward, layer)
    if lora.kind == "dora" or lora.dropout:
        return
    for layer in adapted:
        layer.forward = partial(_forward_adapted, layer)
    for block in network.modules():
        if isinstance(block, BasicTransformerBlock):
            for layer in (block.attn1, block.attn2):
                if all(isinstance(part, Linear) for part in (layer.to_q, layer.to_k, layer.to_v)):
                    layer.forward = partial(attend, layer)


def _forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return low_rank.Frozen.apply(x, layer.weight, layer.bias)


def _forward_adapted(layer: Linear, x: torch.Tensor, *args: Any, **others: Any) -> torch.Tensor:
    if layer.disable_adapters or layer.merged:
        return Linear.forward(layer, x, *args, **others)
    if x.is_cpu and len(x) > 1 and x.stride(0) == 0:  # one caption for all images: once will do
        return _forward_adapted(layer, x[:1]).expand(len(x), *(-1,) * (x.ndim - 1))
    base = layer.base_layer
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return low_rank.LowRank.apply(x, base.weight, base.bias, down, up, layer.scaling[NAME])
