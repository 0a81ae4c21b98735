"""Frozen linear layers and LoRA's, at float32 faster than torch and peft run them.

peft runs x W^T and s (x A^T) B^T and adds them; each extra product reads all of x or y once more.
Here W + s B A is put together first, which is small, and x meets it once. In half precision that
sum would round the update away, so there peft's own way stays.

On the CPU the large products are oneDNN's. torch takes MKL's, which on AMD leave AVX512 alone and
need twice as long.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch.autograd.function import FunctionCtx

from finetune.adapters import NAME
from finetune.settings import Lora

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not in every build of torch


def fuse(network: torch.nn.Module, lora: Lora) -> None:
    """Replace the forward pass of the network's plain and rslora Linear adapters with dropout 0,
    and on the CPU of its other linear layers that are frozen.

    Parameters, their names and what is saved stay as they are.
    """
    adapted = [layer for layer in network.modules() if isinstance(layer, Linear)]
    parts = {part for layer in adapted for part in layer.modules()}
    for layer in network.modules():
        if type(layer) is torch.nn.Linear and layer not in parts:
            weight = layer.weight
            if ONEDNN and weight.is_cpu and not weight.requires_grad:
                layer.forward = partial(_forward, layer)
    if lora.kind != "dora" and not lora.dropout:
        for layer in adapted:
            layer.forward = partial(_forward_adapted, layer)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W^T + b, without a gradient. x: ... x I. W: O x I. b: O or None."""
    compiling = torch.compiler.is_compiling()  # Inductor takes oneDNN's with constant weights only
    if ONEDNN and not compiling and x.is_cpu and x.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return Frozen.apply(x, layer.weight, layer.bias)


def _forward_adapted(layer: Linear, x: torch.Tensor, *args: Any, **others: Any) -> torch.Tensor:
    if layer.disable_adapters or layer.merged:
        return Linear.forward(layer, x, *args, **others)
    if x.is_cpu and len(x) > 1 and x.stride(0) == 0:  # one caption for all images: once will do
        return _forward_adapted(layer, x[:1]).expand(len(x), *(-1,) * (x.ndim - 1))
    base = layer.base_layer
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return LowRank.apply(x, base.weight, base.bias, down, up, layer.scaling[NAME])


class Frozen(torch.autograd.Function):
    """y = x W^T + b, with the gradient of x.

    Args:
        x: ... x I. W: O x I. b: O or None.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return product(dy, weight.T, None), None, None


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
        return product(x, torch.addmm(weight, up, down, alpha=scale), bias)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, down, up = ctx.saved_tensors
        rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # N x I, N x O
        dx = None
        if ctx.needs_input_grad[0]:
            fused = torch.addmm(weight, up, down, alpha=ctx.scale)
            dx = product(dy, fused.T, None).view(x.shape)
        # s (dy B)^T x and s dy^T (x A^T), each in the order and layout that its product is fast in
        ddown = torch.addmm(down, (dy @ up.T.contiguous().T).T, rows, beta=0, alpha=ctx.scale)
        dup = torch.addmm(up.T, (rows @ down.T).T, dy, beta=0, alpha=ctx.scale).T
        return dx, None, None, ddown, dup, None
