"""A network's layers and attention, replaced by faster ones that compute the same.

Parameters, their names and what is saved stay as they are.
"""

from functools import partial
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer

from finetune import low_rank
from finetune.adapters import NAME
from finetune.attention import attend
from finetune.convolution import (
    FASTER,
    Convolution,
    Packed,
    PackedBlock,
    Residual,
    can_pack,
    channels_last,
    is_usual,
)
from finetune.lean import make_lean
from finetune.models import Denoiser
from finetune.settings import DreamBoothSettings, Lora
from finetune.stacks import Part, stack
from finetune.transformer import is_usual as is_usual_transformer
from finetune.transformer import transform


def replace_layers(denoiser: Denoiser, settings: DreamBoothSettings, precision: str) -> None:
    """Of networks that are frozen but for adapters or a new word, what another way does better.

    Args:
        precision: accelerate's word: no, fp16 or bf16.
    """
    if settings.whole:
        return
    eager, full = not settings.compile, precision == "no"
    if settings.adapted and full:
        for network in denoiser.children():
            fuse(network, settings.lora, packing=FASTER and eager)
    if eager and not (full and denoiser.unet.device.type == "cpu"):  # where memory is scarce
        make_lean(denoiser.unet)


def fuse(network: torch.nn.Module, lora: Lora, packing: bool = False) -> None:
    """Replace the forward pass of the network's plain and rslora Linear adapters with dropout 0,
    and where oneDNN is faster so of other layers that are frozen. For float32 only.

    `packing`: of convolutions and small adapters too, if all convolutions can be packed
    (finetune/convolution.py, finetune/stacks.py); compiled, none can.
    """
    tuned = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    parts = {part for layer in tuned for part in layer.modules()}
    packing = packing and can_pack(network)
    for layer in network.modules():
        if layer not in parts:
            fuse_frozen(layer, packing)
    if lora.kind == "dora" or lora.dropout:
        return
    sets = meeting_the_same(network)
    joint = {layer for layers in sets.values() for layer in layers}
    alone = [layer for layer in tuned if isinstance(layer, Linear) and layer not in joint]
    groups = [*sets.values(), *([layer] for layer in alone)]
    stacked = stack(network, groups) if packing else [None] * len(groups)
    for (attention, layers), part in zip(sets.items(), stacked, strict=False):
        together = partial(low_rank.project, layers) if part is None else part.project
        attention.forward = partial(attend, attention, together)
    for layer, part in zip(alone, stacked[len(sets) :], strict=True):
        layer.forward = partial(_forward_adapted, layer, part)
    part_of = {layers[0]: part for layers, part in zip(groups, stacked, strict=True)}
    for block in network.modules():
        if isinstance(block, BasicTransformerBlock) and {block.attn1, block.attn2} <= sets.keys():
            fuse_transformer(block, part_of)
    for layer in joint:  # where they are called one by one: no gradient, or many positions
        layer.forward = partial(_forward_adapted, layer, None)


def fuse_transformer(block: BasicTransformerBlock, part_of: dict[Linear, Part | None]) -> None:
    """Replace the forward pass of a block, if it is a usual one and all its adapters are parts of
    a stack. `part_of`: by the first layer of each."""
    own, words = block.attn1, block.attn2
    firsts = (own.to_q, own.to_out[0], words.to_q, words.to_k, words.to_out[0])
    parts = [part_of.get(layer) for layer in firsts]
    if all(part is not None for part in parts) and is_usual_transformer(block):
        block.forward = partial(transform, block, parts)


def meeting_the_same(network: torch.nn.Module) -> dict[Attention, list[Linear]]:
    """Of each attention in a transformer block, the adapters of what meets the same x: query, key
    and value, or where words are met, key and value.
    """
    sets = {}
    for block in network.modules():
        if isinstance(block, BasicTransformerBlock):
            for layer in (block.attn1, block.attn2):
                first = [] if layer.is_cross_attention else [layer.to_q]
                if all(isinstance(part, Linear) for part in (layer.to_q, layer.to_k, layer.to_v)):
                    sets[layer] = [*first, layer.to_k, layer.to_v]
    return sets


def fuse_frozen(layer: torch.nn.Module, packing: bool) -> None:
    """Replace the forward pass of a layer that has no adapter itself."""
    if type(layer) is torch.nn.Linear:
        if low_rank.is_onednns(layer.weight) and not layer.weight.requires_grad:
            layer.forward = partial(_forward, layer)
    elif packing and isinstance(layer, torch.nn.Conv2d):
        layer.forward = partial(_convolve, Packed(layer))
    elif packing and isinstance(layer, ResnetBlock2D) and is_usual(layer):
        layer.forward = partial(_add_residual, layer, PackedBlock(layer))
    elif packing and isinstance(layer, Transformer2DModel):
        layer._get_output_for_continuous_inputs = partial(_leave_channels_last, layer)


def _forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return low_rank.Product.apply(x, layer.weight, layer.bias)


def _convolve(packed: Packed, x: torch.Tensor) -> torch.Tensor:
    return Convolution.apply(x, packed)


def _add_residual(
    block: ResnetBlock2D, packed: PackedBlock, x: torch.Tensor, moment: torch.Tensor | None
) -> torch.Tensor:
    if moment is None:
        return Residual.apply(channels_last(x), None, packed)
    if moment.requires_grad:  # the time embedding has adapters
        return ResnetBlock2D.forward(block, x, moment)
    moment = block.time_emb_proj(block.nonlinearity(moment))
    return Residual.apply(channels_last(x), moment, packed)


def _leave_channels_last(
    layer: Transformer2DModel,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    batch_size: int,
    height: int,
    width: int,
    inner_dim: int,
) -> torch.Tensor:
    """What the method does, without bringing B x C x H x W into that order in memory."""
    x = layer.proj_out(hidden_states) if layer.use_linear_projection else hidden_states
    x = x.view(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)
    return (x if layer.use_linear_projection else layer.proj_out(x)) + residual


def _forward_adapted(
    layer: Linear, part: Part | None, x: torch.Tensor, *args: Any, **others: Any
) -> torch.Tensor:
    if layer.disable_adapters or layer.merged:
        return Linear.forward(layer, x, *args, **others)
    if x.is_cpu and len(x) > 1 and x.stride(0) == 0:  # one caption for all images: once will do
        return _forward_adapted(layer, part, x[:1]).expand(len(x), *(-1,) * (x.ndim - 1))
    if part is not None:
        return part.product(x)
    base = layer.base_layer
    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return low_rank.LowRank.apply(x, base.weight, base.bias, down, up, layer.scaling[NAME])
