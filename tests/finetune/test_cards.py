"""On a card that is not there: its tensors have shapes, types and a device, and no numbers.

So each kind of run meets what a GPU would complain of in the forward pass: tensors of two devices
or of two types, and numbers read back, for which a step would wait. The backward pass needs a card.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.encode import Batch
from finetune.fused import fuse
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


def to_card(pipeline: StableDiffusionPipeline) -> None:
    """Every tensor of the networks that a loop may call."""
    for network in (pipeline.unet, pipeline.text_encoder):
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
        to_card(pipeline)
        trained = Trained(denoiser).parameters
        assert {(each.dtype, each.device.type) for each in trained.values()} == {
            (torch.float32, "cuda")
        }
        if precision is None:
            for network in denoiser.children():
                fuse(network, own.lora, packing=False)
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


def test_what_the_card_would_complain_of_is_seen(card: FakeTensorMode) -> None:
    with card:
        there, here = torch.ones(3, device=CARD), torch.ones(3)
        with pytest.raises(RuntimeError, match=r"devices|device cuda"):
            there + here
        with OneType(), pytest.raises(AssertionError, match="mm"):
            there[None] @ torch.ones(3, 1, device=CARD, dtype=torch.float16)
        with pytest.raises(DataDependentOutputException):
            float(there.sum())
