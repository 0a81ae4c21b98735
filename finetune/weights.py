"""A run's weights/: written aside, read back and compared, and only then given their name."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from core.files import atomic_folder, write_json
from core.runs import Run
from finetune.adapters import NAME, adapter_state, attach, save_adapters
from finetune.models import Denoiser, Place, open_pipeline, tokenize
from finetune.networks import save_tokenizer_files
from finetune.sample import CARD
from finetune.settings import DreamBoothSettings

CHECK = "check"


class Trained:
    """The trained parameters of a module by name: what checkpoints and averages hold."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}

    def __len__(self) -> int:
        """Numbers, not tensors."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Raises KeyError unless `state` names the same parameters."""
        if state.keys() != self.parameters.keys():
            raise KeyError(f"other parameters: {sorted(state.keys() ^ self.parameters.keys())[:4]}")
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])


def write_weights(
    run: Run,
    pipeline: StableDiffusionPipeline,
    place: Place,
    settings: DreamBoothSettings,
    size: int,
    mode: str,
    prompts: list[str],
) -> None:
    """weights/ with the adapters, or with the whole pipeline where `lora` is null, and a card.

    `pipeline` holds the trained networks; where all of it was trained it ends on the CPU.

    Raises RuntimeError if what was written is not what was trained.
    """
    card = {
        "base": place.name,
        "revision": place.revision,
        "base_identity": place.identity,
        "prediction_type": place.prediction_type,
        "size": size,
        "mode": mode,
        "prompts": prompts,
    }
    text_encoder = pipeline.text_encoder if settings.text_encoder else None
    with atomic_folder(run.weights) as folder:
        write_json(folder / CARD, card)
        if settings.lora is not None:
            save_adapters(pipeline.unet, text_encoder, folder)
            check_adapters(folder, place, pipeline, settings)
        else:
            pipeline.save_pretrained(folder)
            save_tokenizer_files(pipeline.tokenizer, folder / "tokenizer")
            check_pipeline(folder, pipeline)


def check_adapters(
    folder: Path, place: Place, pipeline: StableDiffusionPipeline, settings: DreamBoothSettings
) -> None:
    """Load the file with plain diffusers into a fresh base; all must be as it was trained."""
    assert settings.lora is not None
    text_encoder = pipeline.text_encoder if settings.text_encoder else None
    fresh = open_pipeline(place.folder)
    attach(fresh.unet, fresh.text_encoder if text_encoder else None, settings.lora, seed=0)
    for own, copied in ((pipeline.unet, fresh.unet), (text_encoder, fresh.text_encoder)):
        if own is not None:
            trained = Trained(own).state_dict()
            Trained(copied).load_state_dict(trained)
    wanted = outputs(fresh)

    loaded = open_pipeline(place.folder)
    loaded.load_lora_weights(folder, adapter_name=CHECK)
    for own, other in ((pipeline.unet, loaded.unet), (text_encoder, loaded.text_encoder)):
        if own is not None:
            _compare(adapter_state(own, NAME), adapter_state(other, CHECK), folder)
    _compare(wanted, outputs(loaded), folder)


def check_pipeline(folder: Path, pipeline: StableDiffusionPipeline) -> None:
    """Open the folder; weights and outputs must be those of `pipeline`, which ends on the CPU."""
    pipeline.to("cpu")
    loaded = open_pipeline(folder)
    for name in ("unet", "text_encoder", "vae"):
        wanted, got = getattr(pipeline, name), getattr(loaded, name)
        _compare(wanted.state_dict(), got.state_dict(), folder)
    _compare(outputs(pipeline), outputs(loaded), folder)


@torch.no_grad()
def outputs(pipeline: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """What the text encoder and the UNet say to one fixed input, on the CPU."""
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder).eval()
    words = pipeline.text_encoder(tokenize(pipeline.tokenizer, ["a picture"]))[0]
    shape = (1, pipeline.unet.config.in_channels, 16, 16)
    noisy = torch.linspace(-2, 2, 16 * 16 * shape[1]).sin().reshape(shape)
    return {"words": words, "prediction": denoiser(noisy, torch.tensor([500]), words)}


def _compare(wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor], folder: Path) -> None:
    """Raise RuntimeError unless both hold the same names and exactly the same numbers."""
    apart = sorted(wanted.keys() ^ got.keys())
    apart += [
        name for name in wanted.keys() & got.keys() if not torch.equal(wanted[name], got[name])
    ]
    if apart:
        raise RuntimeError(
            f"The weights do not load back from {folder.parent}: {len(apart)} of {len(wanted)} "
            f"tensors differ, such as {apart[0]}. The newest checkpoint is kept."
        )
