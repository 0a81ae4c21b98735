"""A lean UNet computes what autograd does under autocast, and keeps less."""

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from peft.tuners.lora import Linear

import finetune.fused
import finetune.lean
from finetune.convolution import Convolution
from finetune.fused import replace_layers
from finetune.lean import Frozen, Gated, Normal, _adapt, _forward, make_lean
from finetune.models import Denoiser, open_pipeline
from finetune.norms import normalise_back
from finetune.rehearsal import checkpoint_activations
from finetune.settings import DreamBoothSettings, Lora, Token
from finetune.train_dreambooth import train
from finetune.trained import freeze
from tests.finetune.test_adapters import EVERYWHERE, tuned

HALVES = [torch.bfloat16, torch.float16]
Make = Callable[..., DreamBoothSettings]


def normal_x(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("kind", ["group", "layer"])
def test_a_norm_to_the_bit(kind: str, silu: bool, dtype: torch.dtype) -> None:
    """At float32, where half precise sums of squares would go astray."""
    torch.manual_seed(0)
    group = kind == "group"
    norm = torch.nn.GroupNorm(4, 16) if group else torch.nn.LayerNorm(16)
    for parameter in norm.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(16).to(dtype))
    x = normal_x(2, 16, 8, 6, dtype=dtype) if group else normal_x(2, 48, 16, dtype=dtype)
    wanted = norm(x.float())
    wanted = (F.silu(wanted) if silu else wanted).to(dtype)
    found = Normal.apply(x, norm, silu, dtype)
    assert torch.equal(found, wanted)
    dy = torch.randn_like(wanted)
    (gradient,) = torch.autograd.grad(found, x, dy)
    assert torch.equal(gradient, torch.autograd.grad(wanted, x, dy)[0])
    assert gradient.dtype == dtype


@pytest.mark.parametrize("silu", [True, False])
def test_a_norms_gradient_lies_as_x_does(silu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it stands a permutation, in Stable Diffusion 2; older versions of torch rely on it."""
    orders = []

    def spy(norm: Any, dy: torch.Tensor, x: torch.Tensor, *moments: torch.Tensor) -> torch.Tensor:
        orders.append((dy.stride(), x.stride()))
        return normalise_back(norm, dy, x, *moments)

    monkeypatch.setattr(finetune.lean, "normalise_back", spy)
    x = normal_x(2, 16, 8, 6, dtype=torch.bfloat16)
    y = Normal.apply(x, torch.nn.GroupNorm(4, 16).requires_grad_(False), silu, torch.bfloat16)
    y.permute(0, 2, 3, 1).reshape(2, 48, 16).square().sum().backward()
    assert orders
    assert all(dy == own for dy, own in orders)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_a_gate_to_the_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    raised = normal_x(2, 48, 32, dtype=dtype)
    up, gate = raised.chunk(2, -1)
    wanted = up * F.gelu(gate)
    found = Gated.apply(raised)
    assert torch.equal(found, wanted)
    dy = torch.randn_like(wanted)
    kept = dy.clone()
    (gradient,) = torch.autograd.grad(found, raised, dy)
    assert torch.equal(gradient, torch.autograd.grad(wanted, raised, dy)[0])
    assert torch.equal(dy, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 4}]
)
def test_a_frozen_convolution(options: dict[str, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(16, 24, 3, **options).to(dtype).requires_grad_(False)
    x = normal_x(2, 16, 9, 8, dtype=dtype)
    wanted = layer(x)
    found = Convolution.apply(x, Frozen(layer))
    assert torch.equal(found, wanted)
    dy = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(y, x, dy)[0] for y in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_a_frozen_convolution_keeps_nothing() -> None:
    layer = torch.nn.Conv2d(16, 24, 3).requires_grad_(False)
    x = normal_x(2, 16, 9, 8)
    met = x * 2
    left = weakref.ref(met.untyped_storage())
    y = Convolution.apply(met, Frozen(layer))
    del met
    assert left() is None
    y.sum().backward()


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("alpha", [6.0, 3.0])
def test_adapters_are_no_less_exact_than_pefts(
    base: Path, alpha: float, bias: bool, half: torch.dtype
) -> None:
    """Result and gradients, beside those at float64."""
    lora = Lora(rank=4, alpha=alpha)
    unet = tuned(base, lora, text=False).unet
    name = "to_out.0" if bias else "to_v"
    layer = next(m for n, m in unet.named_modules() if n.endswith(name) and isinstance(m, Linear))
    layer.base_layer.to(half)
    torch.manual_seed(0)
    x = torch.randn(3, 40, layer.in_features)
    dy = torch.randn(3, 40, layer.out_features).to(half)

    def step(dtype: torch.dtype, call: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        mine = x.to(dtype).requires_grad_()
        parameters = [p for p in layer.parameters() if p.requires_grad]
        with torch.autocast("cpu", half, enabled=dtype != torch.float64):
            y = call(mine)
        gradients = torch.autograd.grad(y, [mine, *parameters], dy.to(y.dtype))
        assert all(g.dtype == p.dtype for g, p in zip(gradients[1:], parameters, strict=True))
        return [y.detach(), *gradients]

    usual = step(torch.float32, layer)
    own = step(torch.float32, lambda x: _adapt(layer, x))
    assert own[0].dtype == half
    exact = step(torch.float64, layer.double())
    for found, other, wanted in zip(own, usual, exact, strict=True):
        assert found.shape == wanted.shape
        assert (found - wanted).norm() < 1.1 * (other - wanted).norm()
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_a_small_scale_keeps_fp16_in_its_range(base: Path) -> None:
    """As peft's does; applied last, it would come too late for the sum before it."""
    unet = tuned(base, Lora(rank=64, alpha=1.0), text=False).unet
    layer = next(m for m in unet.modules() if isinstance(m, Linear))
    layer.base_layer.half()
    torch.manual_seed(0)
    x = torch.randn(4096, layer.in_features)
    with torch.autocast("cpu", torch.float16):
        y = _adapt(layer, x)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    for gradient in torch.autograd.grad(y, parameters, torch.full_like(y, 2.0**9)):
        assert gradient.isfinite().all()


def test_what_stays_pefts_own(base: Path) -> None:
    """Adapters that are off, and those with dropout."""
    unet = tuned(base, Lora(rank=2), text=False).unet
    to_half(unet, torch.bfloat16)
    layer = next(m for m in unet.modules() if isinstance(m, Linear))
    x = torch.randn(5, layer.in_features).bfloat16()
    make_lean(unet)
    assert not torch.equal(layer(x), layer.base_layer(x))
    unet.disable_adapters()
    assert torch.equal(layer(x), layer.base_layer(x))
    other = tuned(base, Lora(rank=2, dropout=0.5), text=False).unet
    to_half(other, torch.bfloat16)
    make_lean(other)
    assert not any("forward" in vars(m) for m in other.modules() if isinstance(m, Linear))


def step(
    denoiser: Denoiser, half: torch.dtype | None = None, side: int = 8
) -> dict[str, torch.Tensor]:
    """Prediction, and gradients by name."""
    random = torch.Generator().manual_seed(2)
    noisy = torch.randn(2, 4, side, side, generator=random)
    words = torch.randn(2, 77, 32, generator=random)
    denoiser.zero_grad()
    with torch.autocast("cpu", half, enabled=half is not None):
        prediction = denoiser(noisy, torch.tensor([100, 900]), words)
    prediction.float().square().sum().backward()
    gradients = {n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None}
    return gradients | {"prediction": prediction.detach().float()}


@pytest.mark.parametrize(
    ("targets", "kind"),
    [(("attention",), "plain"), (("attention", "feedforward"), "dora"), (EVERYWHERE, "rslora")],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_lean_unet(base: Path, targets: tuple[str, ...], kind: str, checkpointing: bool) -> None:
    lora = Lora(rank=2, alpha=3.0, targets=targets, kind=kind)
    denoiser = Denoiser(tuned(base, lora, text=False).unet, None)
    wanted, names = step(denoiser), list(denoiser.state_dict())
    make_lean(denoiser.unet)
    if checkpointing:
        checkpoint_activations(denoiser)
        denoiser.train()
    found = step(denoiser)
    assert found.keys() == wanted.keys()
    assert list(denoiser.state_dict()) == names
    for name, value in wanted.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4 * scale)
    blocks = [m for m in denoiser.modules() if isinstance(m, ResnetBlock2D)]
    assert blocks
    assert all("forward" in vars(block) for block in blocks)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_a_lean_unet_in_half_precision(base: Path, kind: str, half: torch.dtype) -> None:
    """About as far from float32 as autocast's own; samplers get plain diffusers' to the bit."""
    lora = Lora(rank=2, alpha=3.0, targets=EVERYWHERE, kind=kind)
    denoiser = Denoiser(tuned(base, lora, text=False).unet, None)
    to_half(denoiser.unet, half)
    usual = step(denoiser, half)
    exact = step(copy.deepcopy(denoiser).float())
    with torch.no_grad(), torch.autocast("cpu", half):
        given = (torch.ones(1, 4, 8, 8), torch.tensor([100]), torch.ones(1, 77, 32))
        plain = denoiser(*given)
        make_lean(denoiser.unet)
        assert torch.equal(denoiser(*given), plain)
    own = step(denoiser, half)
    assert own.keys() == usual.keys() == exact.keys()

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum(((found[name] - exact[name]) / exact[name].norm()).norm() for name in exact)

    assert error(own) < 1.5 * error(usual)


def to_half(unet: UNet2DConditionModel, half: torch.dtype) -> None:
    """All but the adapters."""
    for parameter in unet.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(half)


def test_it_keeps_less(base: Path) -> None:
    """On a card less still (test_cards.py): there autocast norms at float32."""
    denoiser = Denoiser(tuned(base, Lora(rank=2), text=False).unet, None)
    to_half(denoiser.unet, torch.bfloat16)
    usual = kept(denoiser)
    make_lean(denoiser.unet)
    assert kept(denoiser) < 0.6 * usual


def kept(denoiser: Denoiser) -> int:
    """Bytes that a step keeps for its backward pass."""
    own = {p.untyped_storage().data_ptr() for p in denoiser.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step(denoiser, torch.bfloat16, side=32)
    return sum(storage.nbytes() for place, storage in seen.items() if place not in own)


def test_a_copy_is_its_own(base: Path) -> None:
    """As files are checked by copies of what is trained."""
    denoiser = Denoiser(tuned(base, Lora(rank=2), text=False).unet, None)
    make_lean(denoiser.unet)
    wanted = step(denoiser)
    other = copy.deepcopy(denoiser)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.zero_()
    found = step(other)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("changes", "precision", "lean"),
    [
        ({}, "bf16", True),
        ({}, "no", False),
        ({"compile": True}, "bf16", False),
        ({"lora": None}, "bf16", False),
        (
            {"unet": False, "lora": None, "token": Token("<bat>", "a"), "prompt": "a <bat>"},
            "fp16",
            True,
        ),
    ],
)
def test_where_it_is_lean(
    settings: Make, base: Path, changes: dict[str, Any], precision: str, lean: bool
) -> None:
    """Not where every weight is trained, not compiled, and not where it would only cost time."""
    own = settings(**changes)
    pipeline = open_pipeline(base)
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder)
    if own.token is None:
        freeze(denoiser, own)
    replace_layers(denoiser, own, precision)
    block = next(m for m in denoiser.modules() if isinstance(m, ResnetBlock2D))
    way = getattr(vars(block).get("forward"), "func", None)
    assert (way is _forward) is lean


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_runs_and_their_plans_are_lean(
    settings: Make, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[UNet2DConditionModel] = []
    monkeypatch.setattr(finetune.fused, "make_lean", seen.append)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    for dry_run in (True, False):
        AcceleratorState._reset_state(reset_partial_state=True)
        train(settings(steps=1), dry_run)
        assert len(seen) == (precision == "bf16") * (1 if dry_run else 2)
    AcceleratorState._reset_state(reset_partial_state=True)
