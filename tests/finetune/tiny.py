"""A Stable Diffusion 2 of a few hundred thousand random weights: the real classes and files."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.files import write_jsonl

START, END = "<|startoftext|>", "<|endoftext|>"
SIZE = 32


def tiny_tokenizer() -> CLIPTokenizer:
    """Every byte is a word: enough for any prompt."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [START, END, *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=77,
    )


def tiny_pipeline(
    prediction_type: str = "v_prediction", seed: int = 0, linear: bool = True
) -> StableDiffusionPipeline:
    """32 px, latents 4 x 8 x 8, cross-attention 32, linear projection as in Stable Diffusion 2
    (`linear` False: by convolution, as in Stable Diffusion 1)."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        use_linear_projection=linear,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=0.5,
    )
    text_encoder = _text_encoder(tokenizer)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def write_images(folder: Path, count: int = 5, mode: str = "RGB", captions: bool = False) -> Path:
    """A folder of noisy gradients, 40 x 36 pixels; with `captions` a prepared set, whose
    validation images are others like them."""
    if captions:
        _write(folder / "validation", count, mode, True, seed=1)
        (folder / "set.json").write_text(f'{{"name": "{folder.name}", "mode": "{mode}"}}')
    _write(folder / "train" if captions else folder, count, mode, captions, seed=0)
    return folder


def _write(place: Path, count: int, mode: str, captions: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    place.mkdir(parents=True)
    for number in range(count):
        ramp = np.linspace(0, 255, 40)[None, :, None] * np.ones((36, 1, 3))
        pixels = np.clip(ramp + random.normal(0, 20 + 5 * number, (36, 40, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(place / f"{number:02d}.png")
    if captions:
        rows = [{"file_name": f"{n:02d}.png", "text": f"a ramp, number {n}"} for n in range(count)]
        write_jsonl(place / "metadata.jsonl", rows)
