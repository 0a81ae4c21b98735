"""Products with weights that are frozen, and with adapters beside them, at float32.

peft runs x W^T and s (x A^T) B^T and adds them; each extra product reads all of x or y once more.
Here W + s B A is put together first, which is small, and x meets it once. In half precision that
sum would round the update away.

torch takes MKL's products. On AMD's processors those leave AVX512 alone, and where it is as wide as
it says (Zen 5) need twice as long as oneDNN's, which are taken there. Where it is run in halves
(Zen 4) or missing, oneDNN's win for large layers only; on Intel's processors they lose (7 % of a
small UNet's step).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch.autograd.function import FunctionCtx

from core.device import processor
from finetune.adapters import NAME

AMD = "AMD" in processor()
ONEDNN = AMD and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ZEN_5 = 26  # as a family of processors
WIDE = AMD and int(processor("cpu family") or 0) >= ZEN_5  # AVX512 in one piece
AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
LARGE = 0 if WIDE else 2**17 if AVX512 else 2**20  # weights: a layer of so many is oneDNN's
SMALL = 2**17  # weights: a product of fewer takes as long for its calls as for its numbers


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W^T + b, without a gradient. x: ... x I. W: O x I. b: O or None."""
    compiling = torch.compiler.is_compiling()  # Inductor takes oneDNN's with constant weights only
    if is_onednns(weight) and not compiling and x.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def is_onednns(weight: torch.Tensor) -> bool:
    """Whether oneDNN's product with this weight, at float32, is faster than MKL's."""
    return ONEDNN and weight.is_cpu and weight.numel() >= LARGE


def project(layers: Sequence[Linear], x: torch.Tensor) -> list[torch.Tensor]:
    """What plain or rslora adapters make of the same x (... x I): small ones without bias as one,
    whose outputs lie side by side (... x O of all), others apart.
    """
    weights = [layer.weight for layer in layers]
    large = sum(weight.numel() for weight in weights) > SMALL
    if large or any(a.disable_adapters or a.merged or a.bias is not None for a in layers):
        return [layer(x) for layer in layers]
    down = torch.cat([layer.lora_A[NAME].weight for layer in layers])
    up = torch.block_diag(*(layer.lora_B[NAME].weight for layer in layers))
    return [LowRank.apply(x, torch.cat(weights), None, down, up, layers[0].scaling[NAME])]


class Product(torch.autograd.Function):
    """y = x W^T + b, with gradients of x and, unless it is frozen, of W; b is frozen.

    Args:
        x: ... x I. W: O x I. b: O or None.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, x if ctx.needs_input_grad[1] else None)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        dweight = None if x is None else dy.flatten(0, -2).T @ x.flatten(0, -2)
        return product(dy, weight.T, None), dweight, None


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
        fused = torch.addmm(weight, up, down, alpha=scale)
        ctx.kept = weight.numel() <= SMALL
        ctx.save_for_backward(x, fused if ctx.kept else weight, down, up)
        ctx.scale = scale
        return product(x, fused, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, down, up = ctx.saved_tensors
        rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # N x I, N x O
        dx = None
        if ctx.needs_input_grad[0]:
            fused = weight if ctx.kept else torch.addmm(weight, up, down, alpha=ctx.scale)
            dx = product(dy, fused.T, None).view(x.shape)
        # s (dy B)^T x and s dy^T (x A^T), each in the order and layout that its product is fast in
        ddown = torch.addmm(down, up.T @ dy.T, rows, beta=0, alpha=ctx.scale)
        dup = torch.addmm(up.T, down @ rows.T, dy, beta=0, alpha=ctx.scale).T
        return dx, None, None, ddown, dup, None
