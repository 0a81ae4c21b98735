"""LoRA adapters: attached in float32, written so that plain diffusers reads them back exactly."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from transformers import CLIPTextModel

from core.seeds import seed_everything
from finetune.settings import Lora

NAME = "default"
FILE = "pytorch_lora_weights.safetensors"
UNET_LAYERS = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "feedforward": ["ff.net.0.proj", "ff.net.2"],
    "projection": ["proj_in", "proj_out"],
    "convolution": ["conv1", "conv2", "conv_shortcut"],
}
TEXT_LAYERS = {
    "attention": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "feedforward": ["fc1", "fc2"],
}
KEPT = (
    "r",
    "lora_alpha",
    "target_modules",
    "lora_dropout",
    "bias",
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "peft_type",
)
"""Of peft's configuration, the part that older diffusers and peft read too."""


def attach(
    unet: UNet2DConditionModel | None, text_encoder: CLIPTextModel | None, lora: Lora, seed: int
) -> None:
    """Add adapters named "default", float32 whatever the base's precision.

    Args:
        unet, text_encoder: None where it is not trained.
        seed: of the adapters' first weights.
    """
    seed_everything(seed, "adapters")
    for module, layers in ((unet, UNET_LAYERS), (text_encoder, TEXT_LAYERS)):
        if module is None:
            continue
        module.add_adapter(_config(lora, layers), NAME)
        for parameter in module.parameters():
            if parameter.requires_grad:  # in bf16 most of AdamW's steps would be rounded away
                parameter.data = parameter.data.float()


def save_adapters(
    unet: UNet2DConditionModel | None, text_encoder: CLIPTextModel | None, folder: Path
) -> None:
    """Write pytorch_lora_weights.safetensors of those that hold adapters.

    The UNet's keys stay as peft names them: diffusers' conversion loses projections and
    convolutions. The text encoder's are diffusers' own and start with text_model, which old and new
    versions read. The metadata keeps alpha where it differs from the rank.
    """
    parts: dict[str, Any] = {}
    if unet is not None:
        parts["unet_lora_layers"] = adapter_state(unet)
        parts["unet_lora_adapter_metadata"] = _metadata(unet)
    if text_encoder is not None:
        state = adapter_state(text_encoder)
        parts["text_encoder_lora_layers"] = {_text_key(name): state[name] for name in state}
        parts["text_encoder_lora_adapter_metadata"] = _metadata(text_encoder)
    StableDiffusionPipeline.save_lora_weights(folder, **parts)


def adapter_state(module: torch.nn.Module, name: str = NAME) -> dict[str, torch.Tensor]:
    """One adapter's tensors by peft's names, in CPU memory."""
    state = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def _text_key(name: str) -> str:
    """transformers 5 finds DoRA's magnitudes only with a ".weight", older versions with either;
    diffusers takes peft's own names only where attention is among them."""
    ending = ".weight" if name.endswith("lora_magnitude_vector") else ""
    for own, usual in (("lora_A", "lora_linear_layer.down"), ("lora_B", "lora_linear_layer.up")):
        name = name.replace(own, usual)
    return f"text_model.{name.removeprefix('text_model.')}{ending}"


def _config(lora: Lora, layers: dict[str, list[str]]) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=[name for part in lora.targets for name in layers.get(part, [])],
        lora_dropout=lora.dropout,
        use_dora=lora.kind == "dora",
        use_rslora=lora.kind == "rslora",
        init_lora_weights="gaussian",
    )


def _metadata(module: Any) -> dict[str, Any]:
    """JSON-ready; sets become sorted lists."""
    config = module.peft_config[NAME].to_dict()
    kept = {key: config[key] for key in KEPT if key in config}
    kept["target_modules"] = sorted(kept["target_modules"])
    kept["peft_type"] = str(getattr(kept["peft_type"], "value", kept["peft_type"]))
    return kept
