"""Convolutions with packed weights compute what torch's own do."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from finetune import convolution
from finetune.convolution import Convolution, Packed, PackedBlock, Residual, can_pack
from finetune.fused import fuse
from finetune.models import Denoiser
from finetune.rehearsal import checkpoint_activations
from finetune.settings import Lora
from tests.finetune.test_adapters import EVERYWHERE, tuned
from tests.finetune.tiny import tiny_pipeline

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_convolution_pointwise"), reason="torch without oneDNN"
)


def alike(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"),
    [
        (3, 1, 1, True),
        (1, 1, 0, True),
        (3, 2, 1, True),
        (3, 1, 0, False),
        ((3, 1), 1, (2, 0), True),
    ],
)
def test_a_packed_convolution_at_any_size(
    kernel: int | tuple[int, int], stride: int, padding: int, bias: bool
) -> None:
    """Its weights are packed for the size that comes first, and right for others too."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(16, 24, kernel, stride, padding, bias=bias).requires_grad_(False)
    assert can_pack(layer)
    packed = Packed(layer)
    for shape in [(2, 16, 8, 8), (1, 16, 5, 9), (3, 16, 32, 16), (2, 16, 8, 8)]:
        x = torch.randn(shape, requires_grad=True)
        wanted = layer(x)
        dy = torch.randn_like(wanted)
        found = Convolution.apply(x, packed)
        alike(found, wanted)
        alike(torch.autograd.grad(found, x, dy)[0], torch.autograd.grad(wanted, x, dy)[0])


@pytest.mark.parametrize("channels", [16, 32], ids=["same", "shortcut"])
@pytest.mark.parametrize("timed", [True, False])
def test_a_packed_residual_block(channels: int, timed: bool) -> None:
    torch.manual_seed(0)
    block = ResnetBlock2D(
        in_channels=16, out_channels=channels, temb_channels=8 if timed else None, groups=4
    ).requires_grad_(False)
    x = torch.randn(2, 16, 8, 6, requires_grad=True)
    moment = torch.randn(2, 8) if timed else None
    wanted = block(x, moment)
    t = block.time_emb_proj(block.nonlinearity(moment)) if timed else None
    kept = x.detach().clone()
    found = Residual.apply(convolution.channels_last(x), t, PackedBlock(block))
    alike(found, wanted)
    dy = torch.randn_like(wanted)
    gradient = torch.autograd.grad(found, x, dy)[0]
    alike(gradient, torch.autograd.grad(wanted, x, dy)[0])
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("targets", "kind", "packed"),
    [
        (("attention",), "plain", True),
        (("attention", "feedforward"), "dora", True),
        (("projection",), "plain", True),
        (("convolution",), "plain", False),
        (EVERYWHERE, "plain", False),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_unet(
    base: Path, targets: tuple[str, ...], kind: str, packed: bool, checkpointing: bool
) -> None:
    """Same predictions and gradients; where convolutions have adapters, none is packed."""
    lora = Lora(rank=2, alpha=3.0, targets=targets, kind=kind)
    denoiser = Denoiser(tuned(base, lora, text=False).unet, None)
    random = torch.Generator().manual_seed(2)
    noisy = torch.randn(2, 4, 8, 8, generator=random)
    words = torch.randn(2, 77, 32, generator=random)

    def step() -> dict[str, torch.Tensor]:
        denoiser.zero_grad()
        prediction = denoiser(noisy, torch.tensor([100, 900]), words)
        prediction.square().sum().backward()
        gradients = {n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None}
        return gradients | {"prediction": prediction.detach()}

    wanted = step()
    fuse(denoiser, lora, packing=True)
    if checkpointing:
        checkpoint_activations(denoiser)
        denoiser.train()
    found = step()
    assert found.keys() == wanted.keys()
    for name in wanted:
        alike(found[name], wanted[name])
    layers = [m for m in denoiser.modules() if isinstance(m, torch.nn.Conv2d | ResnetBlock2D)]
    assert len(layers) > 20
    assert all(("forward" in vars(layer)) is packed for layer in layers)


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "convolution"])
def test_a_packed_unet_keeps_channels_last(tmp_path: Path, linear: bool) -> None:
    """No layer in between brings them back into the other order, or nothing is gained; with
    projections as in Stable Diffusion 2 and 1."""
    tiny_pipeline(linear=linear).save_pretrained(tmp_path)
    lora = Lora(rank=2)
    denoiser = Denoiser(tuned(tmp_path, lora, text=False).unet, None)
    orders = []

    def look(layer: torch.nn.Module, inputs: object, result: object) -> None:
        x = result[0] if isinstance(result, tuple) else result
        orders.append(x.is_contiguous(memory_format=torch.channels_last))

    layers = [m for m in denoiser.modules() if isinstance(m, ResnetBlock2D | Transformer2DModel)]
    given = (torch.randn(2, 4, 8, 8), torch.tensor([100, 900]), torch.randn(2, 77, 32))
    wanted = denoiser(*given)
    fuse(denoiser, lora, packing=True)
    for layer in layers:
        layer.register_forward_hook(look)
    alike(denoiser(*given), wanted)
    assert len(orders) == len(layers)
    assert all(orders)


def test_what_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.Conv2d(8, 8, 3, padding=1)
    assert not can_pack(plain)
    plain.requires_grad_(False)
    assert can_pack(plain)
    others: list[dict[str, Any]] = [{"dilation": 2}, {"groups": 2}, {"padding": "same"}]
    for options in [*others, {"padding_mode": "reflect"}, {"dtype": torch.float64}]:
        other = torch.nn.Conv2d(8, 8, 3, **options).requires_grad_(False)
        assert not can_pack(torch.nn.Sequential(plain, other))
    monkeypatch.setattr(convolution, "MOST", 2 * plain.weight.numel() - 1)
    assert can_pack(plain)
    assert not can_pack(torch.nn.Sequential(plain, copy.deepcopy(plain)))


def test_a_packed_block_hands_on_the_gradient_of_the_timestep() -> None:
    torch.manual_seed(0)
    block = ResnetBlock2D(in_channels=16, temb_channels=8, groups=4).requires_grad_(False)
    x, moment = torch.randn(2, 16, 8, 6), torch.randn(2, 8, requires_grad=True)
    (wanted,) = torch.autograd.grad(block(x, moment).square().sum(), moment)
    fuse(block, Lora(), packing=True)
    assert "forward" in vars(block)
    alike(torch.autograd.grad(block(x, moment).square().sum(), moment)[0], wanted)
