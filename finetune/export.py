"""A fine-tuned run as other programs read it: `osteon export --run runs/x`.

    OUT/diffusers/    the LoRA for load_lora_weights, a new word for load_textual_inversion
    OUT/webui/        the LoRA as kohya's scripts name it, for webui and ComfyUI
    OUT/pipeline/     all of it merged into the base, fp16, in diffusers' format
    OUT/README.md     model card

Each is opened again and compared with the run before the folder gets its name.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from core.config import leaves, read_yaml
from core.errors import UserError, command
from core.files import atomic_folder, read_json, write_text
from core.runs import kept_weights, trained_steps
from finetune.adapters import FILE, NAME
from finetune.models import locate, open_pipeline
from finetune.networks import save_tokenizer_files
from finetune.new_word import FILE as WORD
from finetune.webui import write as write_webui
from finetune.weights import CARD, compare_states, open_tuned, outputs

CLOSE = 1e-3  # of the largest output: merging adds the same numbers in another order
HALF = torch.float16


def export(run: Path, out: Path, name: str = "newest") -> list[Path]:
    """Write `out`; the folders in it.

    Args:
        name: of the run's weights: "newest", "best" as measured, or a step's number.

    Raises UserError for a run without such weights, RuntimeError for files that do not read back.
    """
    kept = {each: path for each, path in kept_weights(run).items() if (path / CARD).exists()}
    if not kept:
        raise UserError(f"{run} holds no fine-tuned weights; train it to its end first.")
    if name not in kept:
        raise UserError(f"--weights '{name}' should be one of: {', '.join(kept)}.")
    weights = kept[name]
    if out.exists() and not (out / "README.md").exists():
        raise UserError(f"{out} exists and is no export; give another --out.")
    card = read_json(weights / CARD)
    whole = (weights / "model_index.json").exists()
    with atomic_folder(out) as folder:
        if whole:
            pipeline = open_pipeline(weights)
        else:
            pipeline = open_tuned(locate(card["base"], card["revision"]), weights, card, NAME)
            copy_additions(weights, folder / "diffusers")
        if (weights / FILE).exists():
            networks = [n for n in (pipeline.unet, pipeline.text_encoder) if _adapted(n)]
            (folder / "webui").mkdir()
            v2 = pipeline.unet.config.cross_attention_dim == 1024
            write_webui(networks, NAME, folder / "webui" / f"{run.name}.safetensors", v2)
        write_merged(pipeline, folder / "pipeline")
        write_text(folder / "README.md", model_card(run, card, name, weights))
    return sorted(path for path in out.iterdir() if path.is_dir())


def copy_additions(weights: Path, target: Path) -> None:
    """The run's own files are diffusers' format already, and were read back when written."""
    target.mkdir()
    for name in (FILE, WORD):
        if (weights / name).exists():
            shutil.copy2(weights / name, target / name)


@torch.no_grad()
def write_merged(pipeline: StableDiffusionPipeline, target: Path) -> None:
    """Merge adapters, go to fp16, save, open again and compare. `pipeline` is changed."""
    wanted = outputs(pipeline)
    if _adapted(pipeline.unet) or _adapted(pipeline.text_encoder):
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    for name, value in outputs(pipeline).items():
        if (value - wanted[name]).abs().max() > CLOSE * wanted[name].abs().max():
            raise RuntimeError(f"Merging changed the {name} of the pipeline.")
    pipeline.to(HALF)
    pipeline.save_pretrained(target)
    save_tokenizer_files(pipeline.tokenizer, target / "tokenizer")
    prefix_text_encoder(target / "text_encoder" / "model.safetensors")
    again = open_pipeline(target)
    for part in ("unet", "text_encoder", "vae"):
        states = [getattr(each, part).float().state_dict() for each in (pipeline, again)]
        compare_states(*states, target)


def prefix_text_encoder(file: Path) -> None:
    """Keys begin with text_model.: older transformers find none of them otherwise."""
    state = load_file(file)
    named = {f"text_model.{key.removeprefix('text_model.')}": state[key] for key in state}
    save_file(named, file, {"format": "pt"})


def _adapted(network: Any) -> bool:
    return bool(getattr(network, "peft_config", None))


def model_card(run: Path, card: dict[str, Any], name: str, weights: Path) -> str:
    """Markdown with the hub's front matter: what it is, how to load it, what it is not."""
    whole = (weights / "model_index.json").exists()
    facts = read_json(run / "run.json")
    settings = leaves(read_yaml(run / "config.yaml")) | {"steps": trained_steps(run, name)}
    told = ("steps", "batch", "optim.lr", "lora.rank", "lora.alpha", "prior.prompt", "seed")
    rows = [f"| {name} | {settings[name]} |" for name in told if settings.get(name) is not None]
    prompt = card["prompts"][0] if card.get("prompts") else ""
    kind = "Every weight of the networks" if whole else "LoRA"
    load = ["pipeline = StableDiffusionPipeline.from_pretrained('pipeline')"]
    if not whole:
        load = [f"pipeline = StableDiffusionPipeline.from_pretrained({card['base']!r})"]
    if (weights / WORD).exists() and not whole:
        load += ["pipeline.load_textual_inversion('diffusers/learned_embeds.safetensors')"]
    if (weights / FILE).exists():
        load += ["pipeline.load_lora_weights('diffusers')"]
    return "\n".join(
        [
            "---",
            f"base_model: {card['base']}",
            "library_name: diffusers",
            "pipeline_tag: text-to-image",
            f"instance_prompt: {prompt!r}",
            f"tags: [text-to-image, stable-diffusion, {'full' if whole else 'lora'}]",
            "---",
            f"# {run.name}",
            "",
            f"{kind}, trained by Osteon from {card['base']} (revision {card['revision']}) on "
            f"{facts.get('data_images')} images of `{facts.get('data')}` "
            f"(fingerprint {facts.get('data_fingerprint')}). {card['size']} px, "
            f"{card['prediction_type']}. {facts.get('best_reason', '')}".rstrip(),
            "",
            "```python",
            "from diffusers import StableDiffusionPipeline",
            *load,
            f"image = pipeline({prompt!r}).images[0]",
            "```",
            "",
            "`pipeline/` has everything merged, in fp16; `webui/`, where it is there, is for webui "
            "and ComfyUI.",
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


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="osteon export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, type=Path, help="a run of dreambooth")
    parser.add_argument("--out", type=Path, help="folder to write (default RUN/export)")
    parser.add_argument("--weights", default="newest", help="newest, best, or a step's number")
    given = parser.parse_args(argv)
    out = given.out or given.run / "export"
    for folder in export(given.run, out, given.weights):
        print(folder)
    print(f"Next: read {out / 'README.md'}; `hf upload OWNER/NAME {out}` puts it on the hub.")


if __name__ == "__main__":
    sys.exit(main())
