"""What is saved is what was trained, read back by plain diffusers."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft.tuners.lora import Linear
from safetensors import safe_open

import finetune.attention
import finetune.low_rank
from finetune.adapters import FILE, NAME, adapter_state, attach, save_adapters
from finetune.fused import fuse
from finetune.models import Denoiser, open_pipeline
from finetune.settings import DreamBoothSettings, Lora
from finetune.trained import Trained, freeze
from finetune.webui import adapters
from finetune.weights import outputs
from tests.finetune.tiny import tiny_pipeline

EVERYWHERE = ("attention", "feedforward", "projection", "convolution")


def tuned(base: Path, lora: Lora, text: bool) -> StableDiffusionPipeline:
    """Adapters with random weights, as after training."""
    pipeline = open_pipeline(base)
    attach(pipeline.unet, pipeline.text_encoder if text else None, lora, seed=0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in (pipeline.unet, pipeline.text_encoder):
            for parameter in Trained(module).parameters.values():
                parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    return pipeline


@pytest.mark.parametrize(
    ("lora", "text"),
    [
        (Lora(), False),
        (Lora(rank=2, alpha=8.0, targets=("attention", "feedforward")), True),
        (Lora(rank=3, alpha=1.0, targets=EVERYWHERE), True),
        (Lora(rank=2, alpha=4.0, targets=("feedforward",)), True),
        (Lora(rank=2, alpha=4.0, targets=("feedforward",), kind="dora"), True),
        (Lora(rank=2, alpha=4.0, targets=("projection",)), False),
        (Lora(rank=2, alpha=4.0, targets=("convolution",)), False),
        (Lora(rank=2, alpha=4.0, targets=("attention", "feedforward"), kind="dora"), True),
        (Lora(rank=4, alpha=3.0, targets=("attention", "convolution"), kind="rslora"), True),
        (Lora(rank=3, alpha=1.0, targets=EVERYWHERE, kind="dora"), True),
        (Lora(rank=3, alpha=1.0, targets=EVERYWHERE, kind="rslora"), True),
    ],
)
def test_plain_diffusers_reads_back_the_same(
    base: Path, tmp_path: Path, lora: Lora, text: bool
) -> None:
    check_read_back(base, tmp_path, lora, text)


@pytest.mark.parametrize("kind", ["plain", "dora", "rslora"])
def test_a_base_that_projects_by_convolution(tmp_path: Path, kind: str) -> None:
    """As Stable Diffusion 1 does."""
    pipeline = tiny_pipeline("epsilon", linear=False)
    assert isinstance(pipeline.unet.mid_block.attentions[0].proj_in, torch.nn.Conv2d)
    pipeline.save_pretrained(tmp_path / "base")
    lora = Lora(rank=2, alpha=3.0, targets=EVERYWHERE, kind=kind)
    check_read_back(tmp_path / "base", tmp_path, lora, text=True)


def check_read_back(base: Path, tmp_path: Path, lora: Lora, text: bool) -> None:
    """Saved, and loaded by plain diffusers: the same layers, and not a bit's difference."""
    pipeline = tuned(base, lora, text)
    save_adapters(pipeline.unet, pipeline.text_encoder if text else None, tmp_path)
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    before = outputs(plain)
    plain.load_lora_weights(tmp_path, adapter_name="x")

    own, other = adapter_state(pipeline.unet, NAME), adapter_state(plain.unet, "x")
    assert len(own) > 0
    assert own.keys() == other.keys()
    wanted, got = outputs(pipeline), outputs(plain)
    for name in wanted:
        assert (wanted[name] - got[name]).abs().max() == 0, name
    assert (got["prediction"] - before["prediction"]).abs().max() > 1e-3
    assert torch.equal(got["words"], before["words"]) is not text


def test_file_reads_in_older_versions(base: Path, tmp_path: Path) -> None:
    """Small metadata; the text encoder's keys as they were before transformers 5.6."""
    pipeline = tuned(base, Lora(rank=2, alpha=8.0), text=True)
    save_adapters(pipeline.unet, pipeline.text_encoder, tmp_path)
    with safe_open(tmp_path / FILE, "pt") as file:
        keys = list(file.keys())
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    words = [key for key in keys if key.startswith("text_encoder.")]
    assert words
    assert all(key.startswith("text_encoder.text_model.encoder.layers.") for key in words)
    assert all(".lora_linear_layer." in key for key in words)  # as diffusers' own script has them
    assert all(key.startswith(("unet.", "text_encoder.")) for key in keys)
    assert metadata["unet.lora_alpha"] == 8.0
    assert metadata["text_encoder.r"] == 2
    assert {key.split(".", 1)[1] for key in metadata} <= {
        "r", "lora_alpha", "target_modules", "lora_dropout", "bias", "use_dora", "use_rslora",
        "rank_pattern", "alpha_pattern", "peft_type",
    }  # fmt: skip


def test_adapters_of_a_bf16_base_learn(base: Path) -> None:
    """60 AdamW steps of 1e-4 move every element; bf16 adapters would round most of them away."""
    pipeline = open_pipeline(base)
    pipeline.unet.to(torch.bfloat16)
    attach(pipeline.unet, None, Lora(), seed=0)
    trained = Trained(pipeline.unet)
    assert {p.dtype for p in trained.parameters.values()} == {torch.float32}
    before = {name: p.detach().clone() for name, p in trained.parameters.items()}
    optimiser = torch.optim.AdamW(trained.parameters.values(), lr=1e-4)
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        noisy, wanted = torch.randn(2, 1, 4, 4, 4, generator=random).unbind()
        words = torch.randn(1, 8, 32, generator=random)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = pipeline.unet(noisy, torch.tensor([500]), words).sample
        torch.nn.functional.mse_loss(prediction.float(), wanted).backward()
        optimiser.step()
        optimiser.zero_grad()
    moved = [(trained.parameters[name] != before[name]).float().mean() for name in before]
    assert min(moved) == 1.0


@pytest.mark.parametrize("lora", [Lora(rank=2), None])
@pytest.mark.parametrize("parts", [{"unet"}, {"text_encoder"}, {"unet", "text_encoder"}])
def test_only_what_is_asked_for_is_trained(base: Path, lora: Lora | None, parts: set[str]) -> None:
    """Whole networks, or adapters upon them, and nothing of the others."""
    asked = {name: name in parts for name in ("unet", "text_encoder")}
    pipeline = open_pipeline(base)
    counts = [sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in parts]
    own = DreamBoothSettings("data", "run", lora=lora, **asked)
    trained = freeze(Denoiser(pipeline.unet, pipeline.text_encoder).requires_grad_(True), own)
    assert {name.split(".")[0] for name in trained.parameters} == parts
    assert all("lora_" in name for name in trained.parameters) == (lora is not None)
    assert (len(trained) == sum(counts)) == (lora is None)


@pytest.mark.parametrize(("kind", "wanted"), [("plain", 0.75), ("dora", 0.75), ("rslora", 1.5)])
def test_an_update_is_scaled_as_its_kind_has_it(base: Path, kind: Any, wanted: float) -> None:
    """By alpha / rank, 3 / 4; rsLoRA by alpha / sqrt(rank), 3 / 2."""
    pipeline = tuned(base, Lora(rank=4, alpha=3.0, kind=kind), text=True)
    found = [*adapters(pipeline.unet), *adapters(pipeline.text_encoder)]
    assert {layer.scaling[NAME] for _, layer in found} == {wanted}
    assert {NAME in layer.lora_magnitude_vector for _, layer in found} == {kind == "dora"}


def test_first_weights_depend_on_the_seed_alone(base: Path) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.rand(7)
        pipeline = open_pipeline(base)
        attach(pipeline.unet, None, Lora(), seed)
        states.append(torch.cat([t.flatten() for t in adapter_state(pipeline.unet).values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    "few",
    [pytest.param(0, marks=pytest.mark.slow, id="many positions"), pytest.param(512, id="few")],
)
def test_fused_layers_compile_to_one_graph(
    base: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention over many positions is torch's own, which is asked for in a way that compiles."""
    monkeypatch.setattr(finetune.attention, "FEW", few)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    lora = Lora(rank=2)
    denoiser = Denoiser(tuned(base, lora, text=False).unet, None)
    fuse(denoiser, lora)
    noisy, words = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 32)
    wanted = denoiser(noisy, torch.tensor([5, 900]), words)
    denoiser.compile_unet(in_parts=False)
    torch.testing.assert_close(denoiser(noisy, torch.tensor([5, 900]), words), wanted)


@pytest.mark.parametrize("small", [True, False], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["plain", "rslora", "dora"])
def test_fused_layers_are_pefts(
    base: Path, kind: str, small: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same predictions, same gradients, by the ways for few positions and small layers and by
    those for many and large; what is not fused stays peft's own."""
    if not small:
        monkeypatch.setattr(finetune.attention, "FEW", 0)
        monkeypatch.setattr(finetune.low_rank, "SMALL", 0)
    lora = Lora(rank=2, alpha=3.0, targets=EVERYWHERE, kind=kind)
    pipeline = tuned(base, lora, text=True)
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder).double()
    random = torch.Generator().manual_seed(2)
    noisy = torch.randn(2, 4, 8, 8, generator=random, dtype=torch.float64)
    words = torch.randint(0, 200, (2, 77), generator=random)
    found = []
    for _ in range(2):
        prediction = denoiser(noisy, torch.tensor([100, 900]), words)
        prediction.square().sum().backward()
        gradients = {n: p.grad for n, p in denoiser.named_parameters() if p.requires_grad}
        found.append(gradients | {"prediction": prediction.detach()})
        denoiser.zero_grad()
        state = denoiser.state_dict()
        fuse(denoiser, lora)
        assert denoiser.state_dict().keys() == state.keys()
    assert len(found[0]) > 40
    assert found[0].keys() == found[1].keys()
    for name, wanted in found[0].items():
        torch.testing.assert_close(found[1][name], wanted, rtol=1e-9, atol=1e-12)
    fused = [m for m in denoiser.modules() if "forward" in vars(m)]
    assert any(isinstance(m, Linear) for m in fused) is (kind != "dora")
    assert any(type(m) is torch.nn.Linear for m in fused) is onednn
    pipeline.unet.disable_adapters()  # peft's own way out still works
    assert not torch.equal(denoiser(noisy, torch.tensor([100, 900]), words), found[0]["prediction"])


def test_fused_layers_at_float32_and_the_same_words_for_all(
    base: Path, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's products, attention that keeps its weights, and words that are met
    once change a step by rounding only."""
    lora = Lora(rank=2, targets=EVERYWHERE)
    denoiser = Denoiser(tuned(base, lora, text=False).unet, None)
    random = torch.Generator().manual_seed(3)
    noisy = torch.randn(3, 4, 8, 8, generator=random)
    words = torch.randn(1, 77, denoiser.unet.config.cross_attention_dim, generator=random)
    timesteps = torch.tensor([5, 400, 900])

    def gradients(words: torch.Tensor) -> dict[str, torch.Tensor]:
        denoiser.zero_grad()
        denoiser(noisy, timesteps, words).square().sum().backward()
        return {n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None}

    usual = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, usual.__name__, mock.Mock(wraps=usual))
    peft = gradients(words.repeat(3, 1, 1))
    assert torch.nn.functional.scaled_dot_product_attention.call_count > 0
    monkeypatch.setattr(torch.nn.functional, usual.__name__, None)
    fuse(denoiser, lora)
    products = []
    with mock.patch.object(finetune.low_rank, "product", wraps=finetune.low_rank.product) as seen:
        found = [gradients(words.repeat(3, 1, 1))]
        products.append(sum(call.args[0].shape[:2] == (3, 77) for call in seen.call_args_list))
        seen.reset_mock()
        found.append(gradients(words.expand(3, -1, -1)))
        products.append(sum(call.args[0].shape[:2] == (3, 77) for call in seen.call_args_list))
    assert products[0] > 0
    assert products[1] == 0
    for own in found:
        assert own.keys() == peft.keys()
        for name, wanted in peft.items():
            most = wanted.abs().max().item()
            torch.testing.assert_close(own[name], wanted, rtol=1e-4, atol=1e-4 * most)


def test_onednn_gets_large_layers_where_mkls_products_of_small_ones_are_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of torch is without oneDNN")
    monkeypatch.setattr(finetune.low_rank, "ONEDNN", True)
    monkeypatch.setattr(finetune.low_rank, "LARGE", 64 * 32)
    layers = torch.nn.Sequential(torch.nn.Linear(32, 63), torch.nn.Linear(32, 64))
    layers.requires_grad_(False)
    fuse(layers, Lora())
    assert ["forward" in vars(layer) for layer in layers] == [False, True]
    x = torch.randn(3, 32)
    for layer in layers:
        torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
    one = torch.ops.mkldnn._linear_pointwise
    with mock.patch.object(torch.ops.mkldnn, "_linear_pointwise", wraps=one) as seen:
        finetune.low_rank.product(x, layers[0].weight, None)
        assert not seen.called
        finetune.low_rank.product(x, layers[1].weight, None)
        assert seen.called
