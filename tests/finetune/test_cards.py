"""On a card that is not there: its tensors have shapes, types and a device, and no numbers.

So each kind of run meets what a GPU would complain of in the forward pass: tensors of two devices
or of two types, and numbers read back, for which a step would wait. The backward pass needs a card.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd.function import FunctionCtx
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.adapters import attach
from finetune.encode import Batch
from finetune.fused import replace_layers
from finetune.lean import make_lean
from finetune.models import Denoiser, open_pipeline
from finetune.new_word import add_word
from finetune.rehearsal import checkpoint_activations
from finetune.schedules import training_scheduler
from finetune.settings import DreamBoothSettings, Lora, Prior, Token
from finetune.train_dreambooth import loss_of
from finetune.trained import Trained, freeze
from tests.finetune.test_adapters import EVERYWHERE

Make = Callable[..., DreamBoothSettings]
CARD = torch.device("cuda")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "attention")


class OneType(TorchDispatchMode):
    """A product's factors are of one type; without numbers torch itself does not look."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in PRODUCTS):
            given = [each for each in args if isinstance(each, torch.Tensor)]
            assert len({each.dtype for each in given if each.is_floating_point()}) == 1, func
        return func(*args, **kwargs or {})


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """What asks whether there is a card hears that there is one."""
    torch._C._ensureCUDADeviceGuardSet()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *given, **named: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.utils.checkpoint, "get_device_states", lambda *given: ([], []))
    return FakeTensorMode(allow_non_fake_inputs=True)


def to_card(network: torch.nn.Module) -> None:
    """Every tensor of it."""
    for module in network.modules():
        for name, old in list(module._parameters.items()):
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype, device=CARD)
                module._parameters[name] = torch.nn.Parameter(new, old.requires_grad)
        for name, old in list(module._buffers.items()):
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype, device=CARD)


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        pytest.param(torch.bfloat16, {"min_snr_gamma": 5.0}, id="LoRA in bf16"),
        pytest.param(
            torch.float16,
            {"text_encoder": True, "prior": Prior("a bat"), "lora": Lora(targets=EVERYWHERE)},
            id="LoRA of all layers in fp16",
        ),
        pytest.param(None, {"text_encoder": True}, id="LoRA in float32"),
        pytest.param(torch.bfloat16, {"lora": Lora(kind="dora")}, id="DoRA in bf16"),
        pytest.param(
            torch.float16,
            {"token": Token("<bat>", "a"), "prompt": "a <bat>", "gradient_checkpointing": True},
            id="a new word in fp16",
        ),
        pytest.param(
            torch.float16,
            {"lora": None, "text_encoder": True, "gradient_checkpointing": True},
            id="every weight in fp16",
        ),
    ],
)
def test_a_step_stays_on_the_card(
    settings: Make,
    base: Path,
    card: FakeTensorMode,
    precision: torch.dtype | None,
    changes: dict[str, Any],
) -> None:
    own = settings(**changes)
    pipeline = open_pipeline(base)
    if own.token is not None:
        add_word(pipeline, own.token)
    if precision is not None and not own.whole:
        pipeline.unet.to(precision)
    scheduler = training_scheduler(pipeline)
    learns = own.text_encoder or own.token is not None
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder if learns else None)
    freeze(denoiser, own)
    with card:
        to_card(pipeline.unet)
        to_card(pipeline.text_encoder)
        trained = Trained(denoiser).parameters
        assert {(each.dtype, each.device.type) for each in trained.values()} == {
            (torch.float32, "cuda")
        }
        word = {None: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}[precision]
        replace_layers(denoiser, own, word)
        blocks = [m for m in denoiser.unet.modules() if isinstance(m, ResnetBlock2D)]
        assert all(("forward" in vars(block)) is not own.whole for block in blocks)
        if own.gradient_checkpointing:
            checkpoint_activations(denoiser)
        denoiser.train()
        scheduler.alphas_cumprod = torch.empty(len(scheduler), device=CARD)
        count = 4 if own.prior is None else 8
        words = torch.zeros(count, 77, pipeline.unet.config.cross_attention_dim, device=CARD)
        if learns:
            words = torch.zeros(count, 77, dtype=torch.int64, device=CARD)
        latents, noise, added = (torch.empty(count, 4, 8, 8, device=CARD) for _ in range(3))
        timesteps = torch.zeros(count, dtype=torch.int64, device=CARD)
        batch = Batch(latents, noise, added, timesteps, words)
        cast = torch.autocast("cuda", precision or torch.float16, enabled=precision is not None)
        with cast, OneType():
            loss = loss_of(denoiser, scheduler, batch, own)
    assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, ())
    assert loss.requires_grad


class Flash(torch.autograd.Function):
    """What is kept by a card's own kernel of attention, of which without numbers torch knows
    nothing: query, key, value, result and a float32 number for each position of each head."""

    @staticmethod
    def forward(ctx: FunctionCtx, *given: torch.Tensor) -> torch.Tensor:
        query, key, value = (each.to(torch.bfloat16) for each in given)
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result, result.new_empty(query.shape[:3]).float())
        return result


def test_a_full_stable_diffusion_keeps_half(
    card: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stable Diffusion 2, four images of 512 x 512, bf16: counted, as no card was at hand."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *qkv, **named: Flash.apply(*qkv))
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
    unet.to(torch.bfloat16).requires_grad_(False)
    attach(unet, None, Lora(), seed=0)
    with card:
        to_card(unet)
        weights = {p.untyped_storage()._cdata: p.untyped_storage() for p in unet.parameters()}
        given = (torch.empty(4, 4, 64, 64, device=CARD), torch.zeros(4, device=CARD).long())
        words = torch.empty(4, 77, 1024, device=CARD)

        def kept() -> float:
            """GiB, the weights too."""
            seen = dict(weights)

            def pack(x: torch.Tensor) -> torch.Tensor:
                seen[x.untyped_storage()._cdata] = x.untyped_storage()
                return x

            hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
            with hooks, torch.autocast("cuda", torch.bfloat16):
                unet.train()(*given, words)
            return sum(storage.nbytes() for storage in seen.values()) / 2**30

        usual = kept()
        make_lean(unet)
        assert usual == pytest.approx(5.70, abs=0.02)
        assert kept() == pytest.approx(3.62, abs=0.02)


def test_what_the_card_would_complain_of_is_seen(card: FakeTensorMode) -> None:
    with card:
        there, here = torch.ones(3, device=CARD), torch.ones(3)
        with pytest.raises(RuntimeError, match=r"devices|device cuda"):
            there + here
        with OneType(), pytest.raises(AssertionError, match="mm"):
            there[None] @ torch.ones(3, 1, device=CARD, dtype=torch.float16)
        with pytest.raises(DataDependentOutputException):
            float(there.sum())
