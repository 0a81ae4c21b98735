"""webui's files are what was trained, as other programs reckon with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import finetune.webui
from finetune.adapters import NAME, adapter_state
from finetune.models import open_pipeline
from finetune.settings import Lora
from finetune.webui import adapters, merged_weight, state_of, write
from finetune.weights import outputs
from tests.finetune.test_adapters import EVERYWHERE, tuned

BOTH = ("attention", "feedforward")


def test_webui_names_and_true_alpha(base: Path, tmp_path: Path) -> None:
    """diffusers reads our file as its own: same modules, same numbers, same alpha."""
    pipeline = tuned(base, Lora(rank=2, alpha=8.0, targets=BOTH), text=True)
    write([pipeline.unet, pipeline.text_encoder], NAME, tmp_path / "x.safetensors", v2=True)
    keys = load_file(tmp_path / "x.safetensors")
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in keys
    assert any(key.startswith("lora_unet_mid_block_attentions_0_transformer") for key in keys)
    assert {float(value) for key, value in keys.items() if key.endswith(".alpha")} == {8.0}
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.load_lora_weights(tmp_path, weight_name="x.safetensors", adapter_name="x")
    for part in ("unet", "text_encoder"):
        own = adapter_state(getattr(pipeline, part), NAME)
        assert own.keys() == adapter_state(getattr(plain, part), "x").keys()
    wanted, got = outputs(pipeline), outputs(plain)
    for name in wanted:
        torch.testing.assert_close(wanted[name], got[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dora", "rslora", "plain"])
def test_every_layer_merges_as_trained(base: Path, tmp_path: Path, kind: str) -> None:
    """Projections and convolutions too, by kohya's own formula against peft's merge."""
    lora = Lora(rank=4, alpha=3.0, targets=EVERYWHERE, kind=kind)
    pipeline = tuned(base, lora, text=True)
    networks = [pipeline.unet, pipeline.text_encoder]
    before = outputs(pipeline)
    write(networks, NAME, tmp_path / "x.safetensors", v2=False)
    assert all(torch.equal(before[k], v) for k, v in outputs(pipeline).items())  # left as it was
    state = {k: v for network in networks for k, v in state_of(network, NAME).items()}
    pipeline.fuse_lora()
    count = 0
    for network, fresh in zip(networks, _networks(base), strict=True):
        bases = dict(fresh.named_modules())
        for (key, layer), path in zip(adapters(network), _paths(network), strict=True):
            got = merged_weight(key, bases[path].weight.detach(), state)
            torch.testing.assert_close(got, layer.get_base_layer().weight, atol=1e-5, rtol=1e-4)
            count += 1
    assert count > 30


def columns(weight: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """By what AUTOMATIC1111's webui 1.10 divides (network.py, apply_weight_decompose)."""
    lengths = moved.transpose(0, 1).flatten(1).norm(dim=1)
    return lengths.reshape(-1, *[1] * (weight.ndim - 1)).transpose(0, 1)


def rows_before(weight: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """By what ComfyUI 0.3 divides (weight_adapter/base.py, weight_decompose)."""
    return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))


def as_read(
    key: str, weight: torch.Tensor, state: dict[str, torch.Tensor], lengths: Any
) -> torch.Tensor:
    """A layer as such a program makes it."""
    if f"{key}.diff" in state:
        return weight + state[f"{key}.diff"]
    moved = merged_weight(key, weight, state)
    if f"{key}.dora_scale" not in state:
        return moved
    return moved * state[f"{key}.dora_scale"] / lengths(weight, moved)


@pytest.mark.parametrize("kind", ["dora", "rslora", "plain"])
@pytest.mark.parametrize("lengths", [columns, rows_before])
def test_other_programs_make_of_it_what_was_trained(base: Path, lengths: Any, kind: str) -> None:
    """Neither reckons DoRA's magnitudes as they were trained, so they get none."""
    pipeline = tuned(base, Lora(rank=4, alpha=3.0, targets=EVERYWHERE, kind=kind), text=True)
    for network in (pipeline.unet, pipeline.text_encoder):
        state = state_of(network, NAME)
        for key, layer in adapters(network):
            before = layer.get_base_layer().weight.detach().clone()
            got = as_read(key, before, state, lengths)
            layer.merge(adapter_names=[NAME])
            change = layer.get_base_layer().weight.detach() - before
            apart = (got - before - change).norm() / change.norm()
            assert apart < 1e-5, key


def test_a_file_of_more_or_less_than_the_layers_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tuned(base, Lora(rank=2, kind="dora"), text=False)
    real = finetune.webui.save_file

    def save(state: dict[str, torch.Tensor], *others: Any) -> None:
        real(state | {"lora_unet_stray.alpha": torch.ones(())}, *others)

    monkeypatch.setattr(finetune.webui, "save_file", save)
    with pytest.raises(RuntimeError, match="33 tensors where 32 are expected"):
        write([pipeline.unet], NAME, tmp_path / "x.safetensors", v2=False)


def _networks(base: Path) -> list[torch.nn.Module]:
    pipeline = open_pipeline(base)
    return [pipeline.unet, pipeline.text_encoder]


def _paths(network: torch.nn.Module) -> list[str]:
    from peft.tuners.lora import LoraLayer

    return [path for path, layer in network.named_modules() if isinstance(layer, LoraLayer)]
