"""What an export says of itself: Markdown, under the front matter that the hub reads."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.repocard import metadata_load

from core.config import leaves, read_yaml
from core.files import read_json
from core.runs import trained_steps
from finetune.adapters import FILE
from finetune.models import ROOT
from finetune.new_word import FILE as WORD

CARD = "README.md"
MARK = "trained by Osteon"
"""Stands in every card, which so tells an export from another folder."""
TOLD = ("steps", "batch", "optim.lr", "lora.rank", "lora.alpha", "prior.prompt", "seed")
DORA = (
    "The file in `webui/` holds each layer's whole difference: larger, but exact, since webui and "
    "ComfyUI reckon DoRA's magnitudes otherwise than they were trained."
)


def model_card(
    run: Path, card: dict[str, Any], name: str, weights: Path, pictures: list[str]
) -> str:
    """What it is, how to load it, what it is not.

    Args:
        card: of the weights called `name`.
        pictures: beside the card.
    """
    whole = (weights / "model_index.json").exists()
    facts = read_json(run / "run.json")
    settings = leaves(read_yaml(run / "config.yaml")) | {"steps": trained_steps(run, name)}
    rows = [f"| {name} | {settings[name]} |" for name in TOLD if settings.get(name) is not None]
    prompt = card["prompts"][0] if card.get("prompts") else ""
    return "\n".join(
        [
            "---",
            front_matter(card, prompt, whole) + "---",
            f"# {run.name}",
            "",
            f"{'Every weight of the networks' if whole else 'LoRA'}, {MARK} from {card['base']} "
            f"(revision {card['revision']}) on "
            f"{facts.get('data_images')} images of `{facts.get('data')}` "
            f"(fingerprint {facts.get('data_fingerprint')}). {card['size']} px, "
            f"{card['prediction_type']}. {facts.get('best_reason', '')}".rstrip(),
            "",
            *[f"![drawn in training]({picture})" for picture in pictures],
            "",
            "```python",
            "from diffusers import StableDiffusionPipeline",
            *_loading(card, weights, whole),
            f"image = pipeline({prompt!r}).images[0]",
            "```",
            "",
            "`pipeline/` has everything merged, in fp16; `webui/`, where it is there, is for webui "
            "and ComfyUI.",
            *([DORA] if settings.get("lora.kind") == "dora" else []),
            "",
            "| setting | value |",
            "|---|---|",
            *rows,
            "",
            "Its images are synthetic. They are no evidence of anatomy, and nothing for diagnosis. "
            "The licence is that of the base model and of the images.",
            "",
        ]
    )


def front_matter(card: dict[str, Any], prompt: str, whole: bool) -> str:
    """YAML; `base_model` only of a base from the hub, which refuses names of folders."""
    lines = {"base_model": card["base"]} if card["revision"] else {}
    lines |= licence_of(card["base"], card["revision"])
    lines |= {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "instance_prompt": prompt,
        "tags": ["text-to-image", "stable-diffusion", "full" if whole else "lora"],
    }
    text: str = yaml.safe_dump(lines, sort_keys=False, allow_unicode=True)
    return text


def licence_of(base: str, revision: str | None) -> dict[str, str]:
    """What the base's own card says of its licence; "other" where it does not, or is not here."""
    cards = [folder / CARD for folder in (Path(base).expanduser(), ROOT / base)]
    cached = try_to_load_from_cache(base, CARD, revision=revision) if revision else None
    if isinstance(cached, str):
        cards.append(Path(cached))
    found = [metadata_load(file) or {} for file in cards if file.is_file()]
    keys = ("license", "license_name", "license_link")
    lines = {key: found[0][key] for key in keys if key in found[0]} if found else {}
    return lines if "license" in lines else {"license": "other"}


def _loading(card: dict[str, Any], weights: Path, whole: bool) -> list[str]:
    """Lines of Python."""
    if whole:
        return ["pipeline = StableDiffusionPipeline.from_pretrained('pipeline')"]
    lines = [f"pipeline = StableDiffusionPipeline.from_pretrained({card['base']!r})"]
    if (weights / WORD).exists():
        lines += ["pipeline.load_textual_inversion('diffusers/learned_embeds.safetensors')"]
    if (weights / FILE).exists():
        lines += ["pipeline.load_lora_weights('diffusers')"]
    return lines
