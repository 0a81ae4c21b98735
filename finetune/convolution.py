"""Convolutions with weights that are frozen, and the residual blocks made of them, at float32.

oneDNN wants a convolution's weights in blocks of its own and its channels last. torch rearranges
both at every call, as long as a small convolution takes. Here frozen weights are rearranged once,
as they are and turned for the gradient of x, which is a convolution too, and channels stay last
between the layers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch.autograd.function import FunctionCtx

from core.device import processor
from finetune.low_rank import AMD
from finetune.norms import normalise, normalise_back

MEASURED = AMD or "Intel" in processor()  # not elsewhere yet
FASTER = MEASURED and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
MOST = 2**26  # weights of a network: two copies of more are dear


def can_pack(network: torch.nn.Module) -> bool:
    """Whether `Packed` can stand for every convolution: some alone cost more than they gain."""
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    weights = sum(layer.weight.numel() for layer in layers)
    return all(_is_plain(layer) for layer in layers) and weights <= MOST


def _is_plain(layer: torch.nn.Conv2d) -> bool:
    """Frozen, at float32 on the CPU, without groups, gaps or a padding of its own."""
    frozen = not any(parameter.requires_grad for parameter in layer.parameters())
    ready = layer.weight.is_cpu and layer.weight.dtype == torch.float32
    whole = layer.groups == 1 and layer.dilation == (1, 1)
    zeros = layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    return frozen and ready and whole and zeros


class Packed:
    """A frozen convolution with its weights in oneDNN's blocks, chosen for the sizes first met."""

    def __init__(self, layer: torch.nn.Conv2d) -> None:
        self.weight, self.bias = layer.weight.detach(), layer.bias
        self.stride, self.padding = layer.stride, layer.padding
        self.around = [k - 1 - p for k, p in zip(layer.kernel_size, layer.padding, strict=True)]
        self._ahead: torch.Tensor | None = None
        self._back: torch.Tensor | None = None

    def ahead(self, x: torch.Tensor) -> torch.Tensor:
        """W * x + b: B x I x H x W -> B x O x H' x W', channels last."""
        if self._ahead is None:
            self._ahead = _blocks(self.weight, x, self.padding, self.stride)
        return _convolve(x, self._ahead, self.bias, self.padding, self.stride)

    def back(self, dy: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The gradient of x, which had that shape."""
        if self.stride != (1, 1):
            grad = torch.nn.grad.conv2d_input
            return grad(shape, self.weight, dy, self.stride, self.padding)
        if self._back is None:
            turned = self.weight.flip(2, 3).transpose(0, 1).contiguous()
            self._back = _blocks(turned, dy, self.around, (1, 1))
        return _convolve(dy, self._back, None, self.around, (1, 1))


class Convolution(torch.autograd.Function):
    """W * x + b, with the gradient of x."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, packed: Packed) -> torch.Tensor:
        ctx.packed, ctx.shape = packed, x.shape
        return packed.ahead(x)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.packed.back(dy, ctx.shape), None


class PackedBlock:
    """diffusers' residual block: S x + W2 * silu(norm2(W1 * silu(norm1(x)) + t)), all frozen."""

    def __init__(self, block: ResnetBlock2D) -> None:
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.conv1, self.conv2 = Packed(block.conv1), Packed(block.conv2)
        self.shortcut = None if block.conv_shortcut is None else Packed(block.conv_shortcut)


def is_usual(block: ResnetBlock2D) -> bool:
    """Whether `PackedBlock` can stand for this block, whose convolutions can be packed."""
    frozen = not any(parameter.requires_grad for parameter in block.parameters())
    return frozen and is_plain_block(block)


def is_plain_block(block: ResnetBlock2D) -> bool:
    """Whether a block computes S x + W2 * silu(norm2(W1 * silu(norm1(x)) + t)) and no more."""
    timed = block.time_embedding_norm == "default" and not block.skip_time_act
    plain = block.upsample is None and block.downsample is None and block.dropout.p == 0
    scaled = block.output_scale_factor == 1 and isinstance(block.nonlinearity, torch.nn.SiLU)
    return timed and plain and scaled


class Residual(torch.autograd.Function):
    """What a `PackedBlock` computes, with the gradient of x.

    Args:
        x: B x I x H x W, channels last. t: B x O, of the timestep, or None.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, t: torch.Tensor | None, block: PackedBlock
    ) -> torch.Tensor:
        normal1, *moments1 = normalise(block.norm1, x)
        between = block.conv1.ahead(F.silu(normal1))
        if t is not None:
            between += t[:, :, None, None]
        normal2, *moments2 = normalise(block.norm2, between)
        y = block.conv2.ahead(F.silu(normal2))
        y += x if block.shortcut is None else block.shortcut.ahead(x)
        ctx.block = block
        ctx.save_for_backward(x, normal1, *moments1, between, normal2, *moments2)
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        block, silu_back = ctx.block, torch.ops.aten.silu_backward
        x, normal1, *moments1, between, normal2, mean2, scale2 = ctx.saved_tensors
        dy = channels_last(dy)
        grad = silu_back(block.conv2.back(dy, normal2.shape), normal2)
        grad = normalise_back(block.norm2, grad, between, mean2, scale2)
        grad = silu_back(block.conv1.back(grad, normal1.shape), normal1)
        dx = normalise_back(block.norm1, grad, x, *moments1)
        dx += dy if block.shortcut is None else block.shortcut.back(dy, x.shape)
        return dx, None, None


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same B x C x H x W, each pixel's channels side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def _blocks(weight: torch.Tensor, x: torch.Tensor, padding: Any, stride: Any) -> torch.Tensor:
    reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(weight.to_mkldnn(), padding, stride, (1, 1), 1, x.shape)


def _convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: Any, stride: Any
) -> torch.Tensor:
    convolve = torch.ops.mkldnn._convolution_pointwise
    return convolve(x, weight, bias, padding, stride, (1, 1), 1, "none", [], "")
