"""What an export says of itself: Markdown, under the front matter that the hub reads."""

import os
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.repocard import metadata_load

from core.config import filled, leaves, read_yaml
from core.files import read_json
from core.runs import trained_steps
from finetune.adapters import FILE
from finetune.models import ROOT, Place, variant_of
from finetune.new_word import FILE as WORD
from finetune.settings import DreamBoothSettings
from finetune.webui import called

CARD = "README.md"
MARK = "trained by Osteon"
"""Stands in every card, which so tells an export from another folder."""
TOLD = (
    *("steps", "batch", "optim.lr", "token.lr", "lora.rank", "lora.alpha", "prior.prompt", "seed"),
)
PLAIN = "StableDiffusionPipeline.from_pretrained"
DORA = (
    "The file in `webui/` holds each layer's whole difference: larger, but exact, since webui and "
    "ComfyUI reckon DoRA's magnitudes otherwise than they were trained."
)


def model_card(
    run: Path,
    card: dict[str, Any],
    name: str,
    weights: Path,
    place: Place,
    pictures: list[str],
    public: bool = False,
) -> str:
    """What it is, how to load it, what it is not.

    Args:
        card: of the weights called `name`.
        place: the base, or, where its networks were trained themselves, the weights.
        pictures: beside the card.
        public: for others to read, who need not know in which folder a base of one's own lies.
    """
    facts = read_json(run / "run.json")
    settings = leaves(filled(read_yaml(run / "config.yaml"), DreamBoothSettings))
    settings["steps"] = trained_steps(run, name)
    kinds = kinds_of(weights, settings)
    prompt = card["prompts"][0] if card.get("prompts") else ""
    revision = f" (revision {card['revision']})" if card.get("revision") else ""
    size, predicts = card.get("size"), card.get("prediction_type")
    verdict = facts.get("best_reason", "") if name in ("newest", "best") else ""
    shown = card | ({"base": Path(card["base"]).name} if public and not revision else {})
    return "\n".join(
        [
            "---",
            front_matter(card, prompt, kinds) + "---",
            f"# {run.name}",
            "",
            f"{what_was_trained(kinds, settings)}, {MARK} from {shown['base']}{revision} on "
            f"{facts.get('data_images')} images of `{facts.get('data')}` "
            f"(fingerprint {facts.get('data_fingerprint')}). {size or place.size} px, "
            f"{predicts or place.prediction_type}. {verdict}".rstrip(),
            "",
            *[f"![drawn in training]({picture})" for picture in pictures],
            "",
            "```python",
            *instructions(shown, kinds, place, prompt, public),
            "```",
            "",
            merged(kinds, settings.get("token.name")),
            *([DORA] if "lora" in kinds and settings.get("lora.kind") == "dora" else []),
            "",
            "| setting | value |",
            "|---|---|",
            *rows(kinds, settings),
            "",
            "Its images are synthetic. They are no evidence of anatomy, and nothing for diagnosis. "
            "The licence is that of the base model and of the images.",
            "",
        ]
    )


def kinds_of(weights: Path, settings: dict[str, Any]) -> list[str]:
    """What was trained, as the hub tags it: "full" or "lora", "textual_inversion", or two."""
    files = {"full": weights / "model_index.json", "lora": weights / FILE}
    kinds = [kind for kind, file in files.items() if file.exists()]
    word = settings.get("token.name") is not None
    return kinds + (["textual_inversion"] if word else [])


def what_was_trained(kinds: list[str], settings: dict[str, Any]) -> str:
    """The beginning of a sentence."""
    names = {"unet": "UNet", "text_encoder": "text encoder"}
    networks = " and ".join(name for part, name in names.items() if settings[part])
    told = {
        "full": f"every weight of the {networks}",
        "lora": f"LoRA of the {networks}",
        "textual_inversion": f"the new word `{settings.get('token.name')}`",
    }
    sentence = " with ".join(told[kind] for kind in kinds)
    return sentence[:1].upper() + sentence[1:]


def rows(kinds: list[str], settings: dict[str, Any]) -> list[str]:
    """Of the table of settings: those that did something."""
    idle = {"lora.rank", "lora.alpha"} if "lora" not in kinds else set()
    if kinds == ["textual_inversion"]:
        idle.add("optim.lr")
    told = [name for name in TOLD if name not in idle and settings.get(name) is not None]
    return [f"| {name} | {settings[name]} |" for name in told]


def front_matter(card: dict[str, Any], prompt: str, kinds: list[str]) -> str:
    """YAML; `base_model` only of a base from the hub, which refuses names of folders."""
    revision = card.get("revision")
    lines = {"base_model": card["base"]} if revision else {}
    lines |= licence_of(card["base"], revision)
    lines |= {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "instance_prompt": prompt,
        "tags": ["text-to-image", "stable-diffusion", *kinds],
    }
    text: str = yaml.safe_dump(lines, sort_keys=False, allow_unicode=True)
    return text


def licence_of(base: str, revision: str | None) -> dict[str, str]:
    """What the base's own card says of its licence; "other" where it does not, or is not here."""
    cards = [folder / CARD for folder in (Path(os.path.expanduser(base)), ROOT / base)]
    cached = try_to_load_from_cache(base, CARD, revision=revision) if revision else None
    if isinstance(cached, str):
        cards.append(Path(cached))
    found = [metadata_load(file) or {} for file in cards if file.is_file()]
    keys = ("license", "license_name", "license_link")
    lines = {key: found[0][key] for key in keys if key in found[0]} if found else {}
    return lines if "license" in lines else {"license": "other"}


def instructions(
    card: dict[str, Any], kinds: list[str], place: Place, prompt: str, public: bool = False
) -> list[str]:
    """Lines of Python that draw an image, started in the export's folder."""
    ends_in_noise = bool(card.get("zero_terminal_snr")) and "full" not in kinds
    names = f"{'DDIMScheduler, ' if ends_in_noise else ''}StableDiffusionPipeline"
    lines = [
        f"from diffusers import {names}",
        f"pipeline = {PLAIN}({_source(card, kinds, place, public)})  # with a GPU: .to('cuda')",
    ]
    if "full" not in kinds:  # many a base's comes in half precision, and the UNet never does
        lines += ["pipeline.text_encoder.float()  # as the UNet is"]
        if "textual_inversion" in kinds:
            lines += [f"pipeline.load_textual_inversion('diffusers/{WORD}')"]
    if "lora" in kinds:
        lines += ["pipeline.load_lora_weights('diffusers')"]
    if ends_in_noise:  # as `schedules.end_in_noise` does
        lines += [
            "pipeline.scheduler = DDIMScheduler.from_config(",
            "    pipeline.scheduler.config, clip_sample=False,",
            "    rescale_betas_zero_snr=True, timestep_spacing='trailing',",
            ")",
        ]
    size = card.get("size") or place.size
    sides = f", height={size}, width={size}" if size != place.size else ""
    return [*lines, f"image = pipeline({prompt!r}{sides}).images[0]"]


def _source(card: dict[str, Any], kinds: list[str], place: Place, public: bool) -> str:
    """What a pipeline is opened from; of a base on disk the whole path, as nobody knows from where
    its name was meant, unless others are to read it."""
    if "full" in kinds:
        return "'pipeline'"
    variant = variant_of(place.folder / "unet")
    found = f", variant={variant!r}" if variant else ""
    if place.revision is None:
        return repr(card["base"] if public else str(place.folder.resolve())) + found
    return f"{card['base']!r}, revision={place.revision!r}{found}"


def merged(kinds: list[str], word: str | None) -> str:
    """A line on the other folders."""
    opened = "" if "full" in kinds else f", and needs no base: `{PLAIN}('pipeline')`"
    there = ""
    if word is not None and "full" not in kinds:
        name = called(word)
        there = (
            f" There the new word is `{name}`, by its file, `webui/embeddings/{name}.safetensors`."
        )
    return (
        f"`pipeline/` has everything merged, in fp16{opened}; `webui/`, where it is there, is for "
        f"webui and ComfyUI.{there}"
    )
