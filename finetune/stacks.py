"""Small adapters put together with their weights once for each pass of their network.

W + s B A of a small layer takes longer to call for than to compute, and so do the gradients of A
and B. Here all layers of one shape are a stack: one call does for them, there and back. Between
the two, a layer is a product with a weight that has a gradient.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch.autograd.function import FunctionCtx

from finetune.adapters import NAME
from finetune.low_rank import Product, is_onednns

FEW = 2**15  # weights of a layer; of a larger one, A's and B's gradients cost less than W's


class Part:
    """Layers that meet the same x: O x I each, their outputs side by side; a bias only if alone."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        self.layers = layers
        self.bias = layers[0].base_layer.bias
        self.weight: torch.Tensor | None = None  # O of all x I, W + s B A of this pass

    def project(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the layers make of ... x I: ... x O of all."""
        return [self.product(x)] if self.active else [layer(x) for layer in self.layers]

    @property
    def active(self) -> bool:
        """Whether the adapters are neither put off nor merged."""
        return not any(layer.disable_adapters or layer.merged for layer in self.layers)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x (W + s B A)^T + b."""
        if is_onednns(self.weight):
            return Product.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class Stack:
    """Parts whose n layers have one shape and scale."""

    def __init__(self, parts: Sequence[Part]) -> None:
        layers = [layer for part in parts for layer in part.layers]
        self.parts = parts
        self.counts = [len(part.layers) for part in parts]
        self.weights = torch.stack([layer.base_layer.weight.detach() for layer in layers])
        self.downs = [layer.lora_A[NAME].weight for layer in layers]
        self.ups = [layer.lora_B[NAME].weight for layer in layers]
        self.scale = layers[0].scaling[NAME]

    def put_together(self) -> None:
        """Give each part its weight."""
        sums = Sums.apply(self.weights, self.scale, self.counts, *self.downs, *self.ups)
        for part, weight in zip(self.parts, sums, strict=True):
            part.weight = weight


class Sums(torch.autograd.Function):
    """W + s B A of n layers, in as many pieces as there are counts, with gradients of A and B.

    Args:
        weights: W, n x O x I. scale: s. counts: of layers in each piece, n in all.
        factors: n times A, r x I, then n times B, O x r.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        weights: torch.Tensor,
        scale: float,
        counts: Sequence[int],
        *factors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        count, _, inputs = weights.shape
        downs, ups = torch.stack(factors[:count]), torch.stack(factors[count:])
        ctx.save_for_backward(downs, ups)
        ctx.scale = scale
        sums = torch.baddbmm(weights, ups, downs, alpha=scale)
        return tuple(piece.view(-1, inputs) for piece in sums.split(counts))

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        downs, ups = ctx.saved_tensors
        dsums = torch.cat(gradients).view(len(downs), ups.shape[1], downs.shape[2])
        ddowns = torch.baddbmm(downs, ups.transpose(1, 2), dsums, beta=0, alpha=ctx.scale)
        dups = torch.baddbmm(ups, dsums, downs.transpose(1, 2), beta=0, alpha=ctx.scale)
        return None, None, None, *ddowns.unbind(), *dups.unbind()


def stack(network: torch.nn.Module, sets: Sequence[Sequence[Linear]]) -> list[Part | None]:
    """Of plain or rslora adapters that meet the same x, those that are small, float32 and on the
    CPU as parts, which the network puts together whenever it is called; None for the others.
    """
    found: list[Part | None] = [Part(layers) if _is_small(layers) else None for layers in sets]
    alike: dict[Any, list[Part]] = {}
    for part in found:
        if part is not None:
            layer = part.layers[0]
            shapes = (layer.lora_A[NAME].weight.shape, layer.lora_B[NAME].weight.shape)
            alike.setdefault((*shapes, layer.scaling[NAME]), []).append(part)
    stacks = [Stack(parts) for parts in alike.values()]
    network.register_forward_pre_hook(partial(_put_together, stacks))
    return found


def _is_small(layers: Sequence[Linear]) -> bool:
    weights = [layer.base_layer.weight for layer in layers]
    ready = all(weight.is_cpu and weight.dtype == torch.float32 for weight in weights)
    bare = len(layers) == 1 or all(layer.base_layer.bias is None for layer in layers)
    same = all(weight.shape == weights[0].shape for weight in weights)
    return ready and bare and same and weights[0].numel() <= FEW


def _put_together(stacks: Sequence[Stack], *given: object) -> None:
    for each in stacks:
        each.put_together()
