"""A run's weights/: written aside, read back and compared, and only then given their name."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError

from core.errors import UserError
from core.files import atomic_folder, read_json, write_json
from core.runs import SCORE
from core.state import not_finite
from finetune.adapters import FILE, NAME, adapter_state, save_adapters
from finetune.models import (
    NETWORKS,
    Denoiser,
    Place,
    locate,
    open_pipeline,
    tokenize,
)
from finetune.networks import save_pipeline
from finetune.new_word import FILE as WORD
from finetune.new_word import add_word, load_word, new_words, save_word, settled
from finetune.schedules import end_in_noise
from finetune.settings import DreamBoothSettings
from finetune.trained import Trained, freeze

ALIGNED = 64  # bytes: where torch puts what it makes itself
CARD = "osteon.json"
"""Beside the weights: the base, the size, the mode and the prompts that they were tuned with."""


def read_card(weights: Path) -> dict[str, Any]:
    """What a run's weights were trained with; {} where that is not written.

    Raises UserError where it is something else.
    """
    file = weights / CARD
    card: dict[str, Any] = read_json(file) if file.exists() else {}
    if not isinstance(card, dict):
        raise UserError(f"{file} is damaged; copy it again, or train the run anew.")
    return card


def check_named(weights: Path, card: dict[str, Any], facts: tuple[str, ...] = ("base",)) -> None:
    """Raise UserError unless `card` has these facts of the base."""
    if not all(isinstance(card.get(fact), str) for fact in facts):
        raise UserError(
            f"{weights / CARD} does not name the base; copy it again, or train the run anew."
        )


def facts_of(place: Place) -> dict[str, str | None]:
    """What run.json says of a base."""
    return {
        "base": place.name,
        "base_revision": place.revision,
        "base_identity": place.identity,
        "base_configs": place.configs,
        "prediction_type": place.prediction_type,
    }


def base_of(weights: Path, card: dict[str, Any]) -> Place:
    """The base that `weights` add to, as `card` names it.

    Raises UserError as `locate` does, where `card` does not name it, and where the one that is
    there now is another.
    """
    check_named(weights, card, ("base", "base_identity"))
    place = locate(card["base"], card.get("revision"), near=weights)
    predicts = place.prediction_type
    if (place.identity, predicts) != (
        card["base_identity"],
        card.get("prediction_type", predicts),
    ):
        raise UserError(
            f"{weights} was tuned from another {card['base']} than the one that is there now; "
            "restore it, or tune again."
        )
    return place


def open_tuned(
    place: Place,
    folder: Path,
    card: dict[str, Any],
    name: str,
    like: StableDiffusionPipeline | None = None,
) -> Any:
    """The base with what `folder` adds to it: a new word, adapters named `name`, its schedule.

    Args:
        like: as in `open_pipeline`; nothing is added to an autoencoder.

    Raises UserError where a file cannot be read.
    """
    pipeline = open_pipeline(place.folder, like)
    with readable(folder / WORD):
        load_word(pipeline, folder)
    if (folder / FILE).exists():
        load_adapters(pipeline, folder, name)
    if card.get("zero_terminal_snr"):
        end_in_noise(pipeline)
    return pipeline


def load_adapters(pipeline: StableDiffusionPipeline, folder: Path, name: str) -> None:
    """The LoRA in `folder`, as the adapter `name`, in memory of its own: mapped from a file it lies
    at odd addresses, where some processors round otherwise, and would seem to be another.

    Raises UserError where it cannot be read.
    """
    with readable(folder / FILE):
        pipeline.load_lora_weights(folder, adapter_name=name)
    for network in (pipeline.unet, pipeline.text_encoder):
        for parameter in network.parameters():
            if parameter.data_ptr() % ALIGNED:
                parameter.data = parameter.data.clone()


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Raise UserError where what is done meanwhile finds `file` damaged, as one half copied is.

    What the disk itself refuses has a number, and is told by `core.errors.command`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise UserError(
            f"{file} is damaged, or was not copied to its end; copy it again, or train the run "
            "anew."
        ) from error


def write_weights(
    target: Path,
    pipeline: StableDiffusionPipeline,
    place: Place,
    settings: DreamBoothSettings,
    card: dict[str, Any],
    score: dict[str, Any] | None = None,
) -> None:
    """The folder `target`: adapters and new word, or the whole pipeline where its networks were
    trained themselves, and a card (size, mode, prompts: see `sample.load_sampler`); with what these
    weights scored, where it was measured.

    `pipeline` holds the trained networks, which stay where they are: on another device a parameter
    loses the hooks by which several processes average its gradient.

    Raises RuntimeError if what was written is not what was trained.
    """
    card = {
        "base": place.name,
        "revision": place.revision,
        "base_identity": place.identity,
        "prediction_type": place.prediction_type,
        "zero_terminal_snr": settings.zero_terminal_snr,
        **card,
    }
    with atomic_folder(target) as folder:
        write_json(folder / CARD, card)
        if score is not None:
            write_json(folder / SCORE, score)
        if settings.whole:
            with settled(pipeline.text_encoder):
                save_pipeline(pipeline, folder)
                check_pipeline(folder, pipeline)
        else:
            if settings.adapted:
                unet = pipeline.unet if settings.unet else None
                save_adapters(
                    unet, pipeline.text_encoder if settings.text_encoder else None, folder
                )
            if settings.token is not None:
                save_word(pipeline.text_encoder, settings.token, folder)
            check_tuned(folder, place, pipeline, settings, card)


def opened_by(settings: DreamBoothSettings, folder: Path) -> str:
    """The Python by which plain diffusers opens what `write_weights` left in `folder`."""
    if settings.whole:
        return f"StableDiffusionPipeline.from_pretrained({str(folder)!r})"
    calls = [f"pipeline.load_textual_inversion({str(folder / WORD)!r})"] * bool(settings.token)
    calls += [f"pipeline.load_lora_weights({str(folder)!r})"] * settings.adapted
    return "; ".join(calls)


def check_tuned(
    folder: Path,
    place: Place,
    pipeline: StableDiffusionPipeline,
    settings: DreamBoothSettings,
    card: dict[str, Any],
) -> None:
    """Load the files with plain diffusers into a fresh base; all must be as it was trained.

    One base after the other, without its autoencoder, and sharing what `pipeline` holds of it:
    memory has to hold one more at most.
    """
    wanted = trained_outputs(place, pipeline, settings)
    loaded = open_tuned(place, folder, card, NAME, like=pipeline)
    for network in (loaded.unet, loaded.text_encoder):  # what the file lacks has no storage
        names = dict(network.named_parameters())
        _refuse([name for name in names if names[name].is_meta], len(names), folder)
    for part, own in (("unet", settings.unet), ("text_encoder", settings.text_encoder)):
        if settings.adapted and own:
            states = (adapter_state(getattr(each, part)) for each in (pipeline, loaded))
            compare_states(*states, folder)
    compare_states(wanted, outputs(loaded), folder)


def trained_outputs(
    place: Place, pipeline: StableDiffusionPipeline, settings: DreamBoothSettings
) -> dict[str, torch.Tensor]:
    """`outputs` of what was trained in `pipeline`, copied into a fresh base in float32."""
    fresh = open_pipeline(place.folder, like=pipeline)
    if settings.token is not None:
        add_word(fresh, settings.token)
    trained = Trained(Denoiser(pipeline.unet, pipeline.text_encoder)).state_dict()
    freeze(Denoiser(fresh.unet, fresh.text_encoder), settings).load_state_dict(trained)
    return outputs(fresh)


def check_pipeline(folder: Path, pipeline: StableDiffusionPipeline) -> None:
    """Open the folder; weights and outputs must be those of `pipeline`.

    The files are compared as they lie on disk, one network after the other; what is then drawn with
    has their configurations and the numbers of `pipeline`, in its memory where that is the CPU's.
    """
    for name in NETWORKS:
        network = getattr(pipeline, name)
        try:
            written = type(network).from_pretrained(folder / name, local_files_only=True)
        except Exception as error:  # of many kinds, by what is damaged
            raise RuntimeError(_lost(folder, f"{name}/ cannot be read")) from error
        state = {key: value.cpu() for key, value in network.state_dict().items()}
        compare_states(state, written.state_dict(), folder)
        del written, state
    twin = on_cpu(pipeline)
    compare_states(outputs(twin), outputs(open_pipeline(folder, like=twin)), folder)


def on_cpu(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Its like without an autoencoder, in the same memory as far as that is the CPU's."""
    twins = {}
    for name in ("unet", "text_encoder"):
        network = getattr(pipeline, name)
        memo: dict[int, Any] = {id(each): each.cpu() for each in network.buffers()}
        for each in network.parameters():
            memo[id(each)] = torch.nn.Parameter(each.detach().cpu(), requires_grad=False)
        twins[name] = copy.deepcopy(network, memo)
    parts = pipeline.components | twins | {"vae": None}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


@torch.no_grad()
def outputs(pipeline: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """What the text encoder says to one fixed text, and to each new word's vectors by themselves;
    and the UNet to a fixed input with that text, on the CPU.

    Raises UserError where that is not finite, as after steps that were too large.
    """
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder).eval()
    texts = ["a picture", *new_words(pipeline.tokenizer)]
    words = pipeline.text_encoder(tokenize(pipeline.tokenizer, texts))[0]
    shape = (1, pipeline.unet.config.in_channels, 16, 16)
    noisy = torch.linspace(-2, 2, 16 * 16 * shape[1]).sin().reshape(shape)
    found = {"words": words, "prediction": denoiser(noisy, torch.tensor([500]), words[:1])}
    if name := not_finite(found):
        raise UserError(
            f"What these weights compute ({name}) is not finite; train with another --run_dir at a "
            "lower learning rate."
        )
    return found


def compare_states(
    wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor], folder: Path
) -> None:
    """Raise RuntimeError unless both hold the same names and exactly the same numbers."""
    apart = sorted(wanted.keys() ^ got.keys())
    apart += [
        name for name in wanted.keys() & got.keys() if not torch.equal(wanted[name], got[name])
    ]
    _refuse(apart, len(wanted), folder)


def _refuse(apart: list[str], count: int, folder: Path) -> None:
    """Raise RuntimeError if any tensors came back other than they were."""
    if apart:
        what = f"{len(apart)} of {count} tensors differ, such as {apart[0]}"
        raise RuntimeError(_lost(folder, what))


def _lost(folder: Path, what: str) -> str:
    return (
        f"The weights do not load back from {folder.parent}: {what}. The newest checkpoint is kept."
    )
