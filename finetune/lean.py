"""A UNet that is frozen but for its adapters, keeping little for the backward pass.

Under autocast torch keeps a norm's input and output at float32, what each convolution met though
its weights learn nothing, and for each adapter a copy of x. Here a norm, an activation and a gate
keep what came in, as it came, and are computed again, which is cheap; a convolution keeps nothing,
and adapters of the same x keep it once. Results are the same; parameters, their names and what is
saved stay as they are.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.autograd.function import FunctionCtx

from finetune.adapters import NAME
from finetune.convolution import Convolution, is_plain_block
from finetune.norms import Norm, gate_back, normalise, normalise_back


def make_lean(unet: UNet2DConditionModel) -> None:
    """Replace the forward pass of what would keep much, where gradients are wanted.

    Of a UNet that is compiled torch itself chooses what to keep.
    """
    tuned = [layer for layer in unet.modules() if isinstance(layer, BaseTunerLayer)]
    adapters = {
        part
        for layer in tuned
        for name, part in layer.named_modules()
        if not name.startswith("base_layer")
    }
    for layer in unet.modules():
        if isinstance(layer, ResnetBlock2D) and is_plain_block(layer):
            _replace(layer, _add_residual, _wide(layer.norm1), _wide(layer.norm2))
        elif isinstance(layer, BasicTransformerBlock) and layer.norm_type == "layer_norm":
            for norm in (layer.norm1, layer.norm2, layer.norm3):
                _replace(norm, _normalise, _wide(norm))
        elif isinstance(layer, Transformer2DModel):
            _replace(layer.norm, _normalise, _wide(layer.norm))
        elif isinstance(layer, GEGLU):
            _replace(layer, _gate)
        elif isinstance(layer, torch.nn.Conv2d) and layer not in adapters:
            if layer.padding_mode == "zeros" and isinstance(layer.padding, tuple):
                _replace(layer, _convolve)
        elif isinstance(layer, Linear) and is_plain(layer):
            _replace(layer, _adapt)


def _replace(layer: torch.nn.Module, way: Callable[..., torch.Tensor], *given: Any) -> None:
    layer.forward = partial(_forward, layer, way, given)


def _forward(
    layer: torch.nn.Module,
    way: Callable[..., torch.Tensor],
    given: tuple[Any, ...],
    *inputs: Any,
    **named: Any,
) -> torch.Tensor:
    """Samplers get what plain diffusers computes."""
    if not torch.is_grad_enabled():
        return type(layer).forward(layer, *inputs, **named)
    return way(layer, *given, *inputs, **named)


class Normal(torch.autograd.Function):
    """norm(x) or silu(norm(x)), computed at float32 as under autocast; x is kept as it came.

    Args:
        x: B x C x H x W or ... x C. norm: at float32. half: type of what comes out.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, norm: Norm, silu: bool, half: torch.dtype
    ) -> torch.Tensor:
        y, *moments = normalise(norm, x.float().contiguous())
        ctx.norm, ctx.silu = norm, silu
        ctx.save_for_backward(x, *moments)
        return (F.silu(y) if silu else y).to(half)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *moments = ctx.saved_tensors
        # Older versions of torch read a group norm's dy as if it lay in memory as x does
        wide, dy = x.float().contiguous(), dy.float().contiguous()
        if ctx.silu:
            y = normalise(ctx.norm, wide)[0]
            dy = torch.ops.aten.silu_backward.grad_input(dy, y, grad_input=y)  # in place
        return normalise_back(ctx.norm, dy, wide, *moments).to(x.dtype), None, None, None


class Gated(torch.autograd.Function):
    """u gelu(g) of u and g side by side, ... x 2 F -> ... x F; only these are kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, raised: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(raised)
        up, gate = raised.chunk(2, -1)
        return up * F.gelu(gate)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> torch.Tensor:
        (raised,) = ctx.saved_tensors
        return gate_back(dy, raised, F.gelu(raised.chunk(2, -1)[1]))


def _wide(norm: Norm) -> Norm:
    """A copy at float32."""
    wide = copy.deepcopy(norm)
    for name, parameter in norm.named_parameters():
        setattr(wide, name, torch.nn.Parameter(parameter.detach().float(), requires_grad=False))
    return wide


def _normalise(layer: Norm, wide: Norm, x: torch.Tensor) -> torch.Tensor:
    return Normal.apply(x, wide, False, layer.weight.dtype)


def _add_residual(
    block: ResnetBlock2D, norm1: Norm, norm2: Norm, x: torch.Tensor, moment: torch.Tensor | None
) -> torch.Tensor:
    """S x + W2 * silu(norm2(W1 * silu(norm1(x)) + t)). x: B x C x H x W. moment: B x T or None."""
    half = block.norm1.weight.dtype
    y = block.conv1(Normal.apply(x, norm1, True, half))
    if moment is not None:
        y = y + block.time_emb_proj(block.nonlinearity(moment))[:, :, None, None]
    y = block.conv2(Normal.apply(y, norm2, True, half))
    return y + (x if block.conv_shortcut is None else block.conv_shortcut(x))


def _gate(layer: GEGLU, x: torch.Tensor) -> torch.Tensor:
    return Gated.apply(layer.proj(x))


def _convolve(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return Convolution.apply(x, Frozen(layer))


class Frozen:
    """A convolution, as `Packed` but with its weights as they are."""

    def __init__(self, layer: torch.nn.Conv2d) -> None:
        self.weight, self.bias = layer.weight, layer.bias
        self.others = layer.stride, layer.padding, layer.dilation, layer.groups

    def ahead(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x.to(self.weight.dtype), self.weight, self.bias, *self.others)

    def back(self, dy: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return torch.nn.grad.conv2d_input(shape, self.weight, dy, *self.others)


def is_plain(layer: Linear) -> bool:
    """Whether an adapter is plain or rslora, without dropout, on a half precise layer."""
    half = layer.weight.dtype in (torch.float16, torch.bfloat16)
    kept = isinstance(layer.lora_dropout[NAME], torch.nn.Identity)
    return half and kept and NAME not in layer.lora_variant


def _adapt(layer: Linear, x: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
    if layer.disable_adapters or layer.merged or others or named:
        return Linear.forward(layer, x, *others, **named)
    base, down, up = layer.base_layer, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return Beside.apply(x, base.weight, base.bias, down, up, layer.scaling[NAME])


class Beside(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T, with gradients of x, A and B; W and b are frozen.

    Products are of W's type, half precise; A and B are float32, and so are their gradients. Of a
    scale below 1 the power of 2 is applied early, which keeps sums in fp16's range and rounds
    nothing; the rest of it at float32.

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
        rows = x.to(weight.dtype).reshape(-1, x.shape[-1])  # N x I
        down, up = down.to(weight.dtype), up.to(weight.dtype)
        low = rows @ down.T  # N x r
        y = F.linear(rows, weight, bias).addmm_(low, up.T, alpha=scale)
        ctx.early = 2.0 ** min(0, math.frexp(scale)[1] - 1)
        ctx.late = scale / ctx.early
        ctx.save_for_backward(rows, _scaled(low, ctx.early), weight, down, up)
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, low, weight, down, up = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])  # N x O
        dlow = _scaled(dy @ up, ctx.early)  # N x r
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight).addmm_(dlow, down, alpha=ctx.late).view(ctx.shape)
        ddown, dup = (dlow.T @ rows).float(), (dy.T @ low).float()
        return dx, None, None, _scaled(ddown, ctx.late), _scaled(dup, ctx.late), None


def _scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    return x if scale == 1.0 else x * scale
