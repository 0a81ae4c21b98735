"""A transformer block of stacked adapters (finetune/stacks.py) as one function.

Between its products lie calls that take as long as what they compute. Here they are few, and what
is added is added in place.
"""

from collections.abc import Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch.autograd.function import FunctionCtx

from finetune.attention import FEW, attention, attention_back
from finetune.low_rank import product
from finetune.norms import gate_back, normalise, normalise_back
from finetune.stacks import Part


def is_usual(block: BasicTransformerBlock) -> bool:
    """Whether `transform` can stand for this block, all of whose attention is adapted: one as in
    Stable Diffusion, with a feed-forward layer that is frozen."""
    own, words, (first, dropout, *_, last) = block.attn1, block.attn2, block.ff.net
    plain = block.norm_type == "layer_norm" and block.pos_embed is None
    crossed = words.is_cross_attention and not own.is_cross_attention and words.to_q.bias is None
    gated = isinstance(first, GEGLU) and type(first.proj) is type(last) is torch.nn.Linear
    kept = not any(layer.p for layer in (dropout, own.to_out[1], words.to_out[1]))
    layers = (block.norm1, block.norm2, block.norm3, block.ff)
    frozen = not any(p.requires_grad for layer in layers for p in layer.parameters())
    return plain and crossed and gated and kept and frozen


def transform(
    block: BasicTransformerBlock,
    parts: Sequence[Part],
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    *others: object,
    **named: object,
) -> torch.Tensor:
    """What the block computes, B x L x C.

    Args:
        parts: query, key and value of x; what comes out of that attention; query of x; key and
            value of the words; what comes out of that attention.
        hidden_states: x, B x L x C.
        encoder_hidden_states: the words, B x S x D.
    """
    x, words = hidden_states, encoder_hidden_states
    masked = any(other is not None for other in (attention_mask, *others, *named.values()))
    few = x.shape[1] <= FEW and torch.is_grad_enabled()
    if masked or words is None or not few or not all(part.active for part in parts):
        forward = BasicTransformerBlock.forward
        return forward(block, x, attention_mask, words, *others, **named)
    if len(x) > 1 and words.stride(0) == 0:  # one caption for all images
        words = words[:1]
    return Transform.apply(x, words, block, *(part.weight for part in parts))


class Transform(torch.autograd.Function):
    """What a block computes, with gradients of x, words and weights; all else is frozen.

    Args:
        x: B x L x C. words: B x S x D; or 1 x S x D, the same for all.
        weights: of query, key and value of x, 3 h d x C; of what comes out, C x h d; of query of x,
            h d x C; of key and value of the words, 2 h d x D; of what comes out, C x h d.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        words: torch.Tensor,
        block: BasicTransformerBlock,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])  # N x C, N = B L
        y, kept1 = _attend(rows, len(x), None, block.norm1, block.attn1, *weights[:2])
        y, kept2 = _attend(y, len(words), words, block.norm2, block.attn2, *weights[2:])
        y, kept3 = _feed(y, block.norm3, block.ff.net[0].proj, block.ff.net[-1])
        ctx.block, ctx.counts = block, [1, len(weights), len(kept1), len(kept2), len(kept3)]
        ctx.save_for_backward(words, *weights, *kept1, *kept2, *kept3)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved, block = iter(ctx.saved_tensors), ctx.block
        (words,), weights, kept1, kept2, kept3 = ([*islice(saved, n)] for n in ctx.counts)
        rows = dy.reshape(-1, dy.shape[-1])
        rows = _feed_back(rows, kept3, block.norm3, block.ff.net[0].proj, block.ff.net[-1])
        rows, dpacks, dweights2 = _attend_back(rows, kept2, words, block.norm2, *weights[2:])
        rows, _, dweights1 = _attend_back(rows, kept1, None, block.norm1, *weights[:2])
        dwords = product(dpacks[1], weights[3].T, None) if ctx.needs_input_grad[1] else None
        return rows.view(dy.shape), dwords, None, *dweights1, *dweights2


def _attend(
    x: torch.Tensor,
    images: int,
    words: torch.Tensor | None,
    norm: torch.nn.LayerNorm,
    layer: Attention,
    *weights: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x + attention(norm(x), words) W^T + b, N x C; and what the way back needs.

    Args:
        x: N x C, all positions of so many images. words: of each, images x S x D; None: x itself.
        weights: of what meets x; of key and value of the words; W.
    """
    *into, out = weights
    normal, *moments = normalise(norm, x)
    packs = [product(normal, into[0], None).view(images, -1, len(into[0]))]
    packs += [] if words is None else [product(words, into[1], None)]
    mixed, softmax, *apart = attention(layer.heads, *packs)
    mixed = mixed.view(len(x), -1)
    y = product(mixed, out, layer.to_out[0].base_layer.bias).add_(x)
    return y, [x, normal, *moments, mixed, softmax, *apart]


def _attend_back(
    dy: torch.Tensor,
    kept: Sequence[torch.Tensor],
    words: torch.Tensor | None,
    norm: torch.nn.LayerNorm,
    *weights: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Gradients of x, of the packs and of the weights."""
    *into, out = weights
    x, normal, mean, scale, mixed, softmax, *apart = kept
    _, units, positions, depth = apart[0].shape  # of query, key or value: images h x L x d
    heads = mixed.shape[1] // depth
    dmixed = product(dy, out.T, None).view(units // heads, positions, -1)
    dpacks = attention_back(heads, dmixed, softmax, *apart)
    dfirst = dpacks[0].view(len(x), -1)
    dx = normalise_back(norm, product(dfirst, into[0].T, None), x, mean, scale).add_(dy)
    dweights = [dfirst.T @ normal, dy.T @ mixed]
    if words is not None:
        dweights.insert(1, dpacks[1].flatten(0, 1).T @ words.flatten(0, 1))
    return dx, dpacks, dweights


def _feed(
    x: torch.Tensor, norm: torch.nn.LayerNorm, rise: torch.nn.Linear, fall: torch.nn.Linear
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """x + (u * gelu(g)) W2^T + b2, where u and g are the halves of norm(x) W1^T + b1, N x C; and
    what the way back needs. rise: W1 and b1. fall: W2 and b2."""
    normal, *moments = normalise(norm, x)
    raised = product(normal, rise.weight, rise.bias)
    up, gate = raised.chunk(2, -1)
    opened = F.gelu(gate)
    y = product(up * opened, fall.weight, fall.bias).add_(x)
    return y, [x, *moments, raised, opened]


def _feed_back(
    dy: torch.Tensor,
    kept: Sequence[torch.Tensor],
    norm: torch.nn.LayerNorm,
    rise: torch.nn.Linear,
    fall: torch.nn.Linear,
) -> torch.Tensor:
    """The gradient of x."""
    x, mean, scale, raised, opened = kept
    between = product(dy, fall.weight.T, None)
    dnormal = product(gate_back(between, raised, opened), rise.weight.T, None)
    return normalise_back(norm, dnormal, x, mean, scale).add_(dy)
