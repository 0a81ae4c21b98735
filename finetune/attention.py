"""LoRA's attention over few positions, on the CPU faster than torch's own kernel.

That kernel never holds the L x S weights, so that many positions fit, and computes them a second
time for the backward pass. Here they are kept; query, key and value of the same x come from one
product, and what one caption says is met once for all images.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch.autograd.function import FunctionCtx

FEW = 512  # positions; at 1,024 nothing is gained


def attend(
    layer: Attention,
    together: Callable[[torch.Tensor], list[torch.Tensor]],
    x: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None = None,
    **others: Any,
) -> torch.Tensor:
    """diffusers' Attention in a transformer block, of adapters without dropout: B x L x C.

    Args:
        together: query, key and value of x; of the words, if they are met, key and value.
        x: B x L x C.
        encoder_hidden_states: the words, B x S x D; None: attention of x to itself.
    """
    words = encoder_hidden_states
    few = x.is_cpu and x.shape[1] <= FEW and torch.is_grad_enabled()
    usual = layer.is_cross_attention is (words is not None)
    if not few or not usual or any(other is not None for other in others.values()):
        return layer.processor(layer, x, words, **others)  # as its forward does
    if words is None:
        packs = together(x)
    else:
        query = layer.to_q(x)
        if len(x) > 1 and words.stride(0) == 0:  # one caption: all positions are one image's
            query, words = query.view(1, -1, query.shape[-1]), words[:1]
        packs = [query, *together(words)]
    if torch.compiler.is_compiling():  # which fuses what lies between the products
        mixed, *_ = attention(layer.heads, *packs)
    else:
        mixed = Attend.apply(layer.heads, *packs)
    return layer.to_out[1](layer.to_out[0](mixed.view(*x.shape[:2], -1)))


def attention(heads: int, *packs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """softmax(q k^T / sqrt(d)) v of every head, B x L x h d; that softmax, B h x L x S; and the
    packs by heads, each n x B h x its positions x d.

    Args:
        heads: h.
        packs: q (L positions), k and v (S positions each), side by side in as many
            B x positions x n h d as they come in.
    """
    depth = sum(pack.shape[-1] for pack in packs) // 3 // heads
    apart = [_apart(pack, heads, depth) for pack in packs]
    q, k, v = (part for pack in apart for part in pack)
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=depth**-0.5)
    place = None if scores.requires_grad else scores  # in place where nothing is recorded
    weights = torch.softmax(scores, -1, out=place)
    return _together((weights @ v)[None], heads), weights, *apart


class Attend(torch.autograd.Function):
    """`attention`'s first result, with gradients of the packs."""

    @staticmethod
    def forward(ctx: FunctionCtx, heads: int, *packs: torch.Tensor) -> torch.Tensor:
        mixed, *kept = attention(heads, *packs)
        ctx.heads = heads
        ctx.save_for_backward(*kept)
        return mixed

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *attention_back(ctx.heads, dy, *ctx.saved_tensors)


def attention_back(
    heads: int, dy: torch.Tensor, weights: torch.Tensor, *apart: torch.Tensor
) -> list[torch.Tensor]:
    """Gradients of the packs from that of `attention`'s first result and the others of it."""
    q, k, v = (part for pack in apart for part in pack)
    gradients = [pack.new_empty(pack.shape) for pack in apart]  # whole: one call for all heads
    dq, dk, dv = (part for pack in gradients for part in pack)
    scale = q.shape[-1] ** -0.5
    (rows,) = _apart(dy, heads, q.shape[-1])
    torch.bmm(weights.transpose(1, 2), rows, out=dv)
    dweights = rows @ v.transpose(1, 2)
    back = torch.ops.aten._softmax_backward_data.out
    dscores = back(dweights, weights, -1, weights.dtype, grad_input=dweights)
    torch.baddbmm(dq, dscores, k, beta=0, alpha=scale, out=dq)
    torch.baddbmm(dk, dscores.transpose(1, 2), q, beta=0, alpha=scale, out=dk)
    return [_together(pack, heads) for pack in gradients]


def _apart(pack: torch.Tensor, heads: int, depth: int) -> torch.Tensor:
    """B x L x n h d -> n x B h x L x d."""
    batch, length, _ = pack.shape
    parts = pack.view(batch, length, -1, heads, depth).permute(2, 0, 3, 1, 4)
    return parts.reshape(-1, batch * heads, length, depth)


def _together(apart: torch.Tensor, heads: int) -> torch.Tensor:
    """n x B h x L x d -> B x L x n h d."""
    count, _, length, depth = apart.shape
    parts = apart.view(count, -1, heads, length, depth).permute(1, 3, 0, 2, 4)
    return parts.reshape(-1, length, count * heads * depth)
