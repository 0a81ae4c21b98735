"""The embedded base's parts, built from nothing: Stable Diffusion 2's classes at a small size.

And how any pipeline is saved, so that older programs read it too.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from tokenizers import Regex, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.files import atomic_path, read_json, write_json
from finetune.base_settings import (
    AUTOENCODER_GROUPS,
    UNET_GROUPS,
    Autoencoder,
    TextEncoder,
    Unet,
)

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77  # as in CLIP
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's own splitting


def build_autoencoder(settings: Autoencoder, size: int) -> AutoencoderKL:
    """size x size RGB in [-1, 1] <-> latent_channels x h x w latents (see `latent_side`)."""
    depth = len(settings.channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=settings.channels,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=AUTOENCODER_GROUPS,
        sample_size=size,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def latent_side(settings: Autoencoder, size: int) -> int:
    """Pixels a side of the latents of size x size images: each level but the first halves them."""
    return size >> (len(settings.channels) - 1)


def build_tokenizer(captions: Iterable[str], vocabulary: int) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, learned from captions; any other word falls into its letters.

    The same captions give the same tokens, always: a resumed run relies on it (the tokenizers
    library numbers them differently each time).
    """
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    counts = Counter(
        word for caption in captions for word, _ in split.pre_tokenize_str(caption.lower())
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [letter + end for end in ("", "</w>") for letter in alphabet]
    merges = learn_merges(counts, vocabulary - len(letters) - 2)
    tokens = dict.fromkeys([START, END, *letters, *("".join(pair) for pair in merges)])
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def learn_merges(counts: Mapping[str, int], limit: int) -> list[tuple[str, str]]:
    """Byte-pair merges of words with their counts, the commonest pair first, ties by alphabet.

    Ends at `limit` merges, or when no pair comes twice (Sennrich et al. 2016).
    """
    words = {(*word[:-1], f"{word[-1]}</w>"): count for word, count in counts.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        words = {_merged(word, best): count for word, count in words.items()}
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts, place = [], 0
    while place < len(word):
        size = 2 if word[place : place + 2] == pair else 1
        parts.append("".join(word[place : place + size]))
        place += size
    return tuple(parts)


def build_text_encoder(settings: TextEncoder, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """77 tokens -> 77 x hidden."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden,
            intermediate_size=4 * settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            projection_dim=settings.hidden,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(
    settings: Unet, text: TextEncoder, latent_channels: int, side: int
) -> UNet2DConditionModel:
    """Denoiser of latent_channels x side x side; plain blocks first, cross-attention below."""
    lower = len(settings.channels) - 1
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=settings.channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * lower,
        up_block_types=("CrossAttnUpBlock2D",) * lower + ("UpBlock2D",),
        layers_per_block=settings.layers,
        cross_attention_dim=text.hidden,
        attention_head_dim=settings.heads,  # diffusers' name for the number of heads
        use_linear_projection=True,
        norm_num_groups=UNET_GROUPS,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 2's own schedule, v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """In diffusers' format, as older versions of diffusers and transformers read it too.

    The text encoder's configuration says float32: its loader goes by that, and the UNet's opens
    everything so, however it is saved.
    """
    pipeline.save_pretrained(folder)
    config = folder / "text_encoder" / "config.json"
    write_json(config, read_json(config) | {"dtype": "float32"})
    save_tokenizer_files(pipeline.tokenizer, folder / "tokenizer")
    prefix_text_encoder(folder / "text_encoder" / "model.safetensors")


def prefix_text_encoder(file: Path) -> None:
    """Keys begin with text_model.: older transformers find none of them otherwise."""
    state = load_file(file)
    named = {f"text_model.{key.removeprefix('text_model.')}": state[key] for key in state}
    with atomic_path(file) as temporary:  # `state` may be a view of the file
        save_file(named, temporary, {"format": "pt"})


def save_tokenizer_files(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """vocab.json and merges.txt too: older transformers read nothing else."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
