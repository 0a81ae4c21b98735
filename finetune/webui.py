"""LoRA adapters as kohya's scripts name them: what webui, ComfyUI and their kin read.

`lora_unet_*` and `lora_te_text_model_*`, each with .lora_down, .lora_up and its true .alpha; DoRA
with each layer's whole difference, .diff. Of the factors and magnitudes (.dora_scale, one for each
output) webui and ComfyUI make something else: they divide by the lengths of the columns, or by
those of the rows before training. A new word has a file of its own, `emb_params` (V x D).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn


def adapters(module: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Layers that hold adapters, by kohya's name."""
    for path, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            path = path.removeprefix("text_model.")
            prefix = "lora_te_text_model" if path.startswith("encoder.layers") else "lora_unet"
            yield f"{prefix}_{path.replace('.', '_')}", layer


def state_of(module: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The adapters called `name` of a UNet or text encoder."""
    state = {}
    for key, layer in adapters(module):
        if name in layer.lora_magnitude_vector:
            state[f"{key}.diff"] = dora_change(layer, name)
            continue
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        state[f"{key}.lora_down.weight"] = down.float()
        state[f"{key}.lora_up.weight"] = up.float()
        # what multiplies up @ down is alpha / rank for them, whatever it was when trained
        state[f"{key}.alpha"] = torch.tensor(float(layer.scaling[name] * down.shape[0]))
    return {key: value.detach().contiguous() for key, value in state.items()}


def dora_change(layer: LoraLayer, name: str) -> torch.Tensor:
    """What DoRA adds to a weight W: m (W + BA) / |W + BA| - W, row by row (Liu et al. 2024)."""
    weight = layer.get_base_layer().weight.detach().float()
    moved = weight + layer.get_delta_weight(name).detach()
    size = layer.lora_magnitude_vector[name].weight.detach().flatten()
    share = size / moved.flatten(1).norm(dim=1)
    return share.reshape(-1, *[1] * (weight.ndim - 1)) * moved - weight


def merged_weight(key: str, weight: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """What such a program makes of a layer's `weight` (out x in, or out x in x h x w)."""
    if f"{key}.diff" in state:
        return weight + state[f"{key}.diff"]
    down, up = state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"]
    scale = float(state[f"{key}.alpha"]) / down.shape[0]
    return weight + scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


def write(networks: list[nn.Module], name: str, file: Path, v2: bool) -> None:
    """One file of all networks' adapters. Raises RuntimeError if it does not read back as they are.

    Args:
        v2: Stable Diffusion 2.
    """
    state = {key: value for network in networks for key, value in state_of(network, name).items()}
    kind = "lycoris.kohya" if all(key.endswith(".diff") for key in state) else "networks.lora"
    metadata = {"ss_network_module": kind, "ss_v2": str(v2), "format": "pt"}
    save_file(state, file, metadata)
    saved, expected = load_file(file), 0
    for network in networks:
        for key, layer in adapters(network):
            base = layer.get_base_layer().weight.detach().float()
            got, wanted = merged_weight(key, base, saved), base + layer.get_delta_weight(name)
            dora = name in layer.lora_magnitude_vector
            if dora:
                wanted = _dora(layer, base, name)
            if not torch.allclose(got, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-4):
                raise RuntimeError(f"{file} does not read back as trained at {key}.")
            expected += 1 if dora else 3
    if len(saved) != expected or not expected:
        raise RuntimeError(f"{file} holds {len(saved)} tensors where {expected} are expected.")


def write_word(saved: Path, folder: Path) -> None:
    """A new word, as diffusers' file has it, in one that webui and ComfyUI call it by."""
    ((word, vectors),) = load_file(saved).items()
    folder.mkdir(parents=True)
    save_file({"emb_params": vectors}, folder / f"{called(word)}.safetensors")


def called(word: str) -> str:
    """What a new word is called in prompts there: its file's name, without <, >, ? and the like."""
    return re.sub(r"\W+", "-", word).strip("-") or "word"


@torch.no_grad()
def _dora(layer: LoraLayer, base: torch.Tensor, name: str) -> torch.Tensor:
    """peft's own merge of a DoRA layer."""
    layer.merge(adapter_names=[name])
    merged = layer.get_base_layer().weight.detach().clone().float()
    layer.unmerge()
    layer.get_base_layer().weight.copy_(base)
    return merged
