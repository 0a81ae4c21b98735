"""A fine-tuned run as other programs read it: `osteon export --run runs/x`.

    OUT/diffusers/    the LoRA for load_lora_weights, a new word for load_textual_inversion
    OUT/webui/        the same for webui and ComfyUI, as kohya's scripts name the LoRA
    OUT/pipeline/     all of it merged into the base, fp16, in diffusers' format
    OUT/previews/     the last sheets that the run drew
    OUT/README.md     model card

Each is opened again and compared with the run before the folder gets its name.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from core.errors import Parser, UserError, command
from core.families import family_of
from core.files import atomic_folder, nearest_folder, write_text
from core.runs import kept_weights, step_of, trained_steps
from finetune.adapters import FILE, NAME
from finetune.hub import check_push, push
from finetune.model_card import CARD as README
from finetune.model_card import MARK, model_card
from finetune.models import NETWORKS, locate, open_pipeline
from finetune.networks import save_pipeline
from finetune.new_word import FILE as WORD
from finetune.webui import write as write_webui
from finetune.webui import write_word
from finetune.weights import (
    CARD,
    base_of,
    check_named,
    compare_states,
    open_tuned,
    outputs,
    read_card,
)

CLOSE = 1e-3  # of the largest output: merging adds the same numbers in another order
FOLDERS = {"diffusers", "webui", "pipeline", "previews"}
KINDS = {".json", ".png", ".safetensors", ".txt"}
"""Of the files in them."""
SHEETS = 3


def export(run: Path, out: Path, name: str = "newest", public: bool = False) -> list[Path]:
    """Write `out`; the folders in it.

    Args:
        run: is named after its folder, so that "." is as good a path as any.
        name: of the run's weights: "newest", "best" as measured, or a step's number.
        public: the card is for others to read.

    Raises UserError for a run of another family, without such weights, with damaged ones, or whose
    base is another by now, RuntimeError for files that do not read back.
    """
    run = run.resolve()
    kept = {each: path for each, path in kept_weights(run).items() if (path / CARD).exists()}
    if not kept:
        check_family(run)
        raise UserError(f"{run} holds no fine-tuned weights; train it to its end first.")
    if name not in kept:
        raise UserError(f"--weights '{name}' should be one of: {', '.join(kept)}.")
    weights = kept[name]
    check_replaceable(out)
    card = read_card(weights)
    check_named(weights, card)
    whole = (weights / "model_index.json").exists()
    place = locate(str(weights)) if whole else base_of(weights, card)
    with atomic_folder(out.resolve()) as folder:
        if whole:
            pipeline = open_pipeline(weights)
        else:
            pipeline = open_tuned(place, weights, card, NAME)
            copy_additions(weights, folder / "diffusers")
        with torch.no_grad():
            wanted = outputs(pipeline)
            if not whole:
                again = open_tuned(place, folder / "diffusers", card, NAME, like=pipeline)
                compare_states(wanted, outputs(again), folder / "diffusers")
                del again
        if (weights / FILE).exists():
            networks = [n for n in (pipeline.unet, pipeline.text_encoder) if _adapted(n)]
            (folder / "webui").mkdir()
            v2 = pipeline.unet.config.cross_attention_dim == 1024
            write_webui(networks, NAME, folder / "webui" / f"{run.name}.safetensors", v2)
        if (weights / WORD).exists():
            write_word(weights / WORD, folder / "webui" / "embeddings")
        write_merged(pipeline, wanted, folder / "pipeline")
        pictures = copy_previews(run, name, folder)
        told = model_card(run, card, name, weights, place, pictures, public)
        write_text(folder / README, told)
    return sorted(path for path in out.iterdir() if path.is_dir())


def check_family(run: Path) -> None:
    """Raise UserError for a run, or a model folder, that is none of dreambooth."""
    told = any((run / name).exists() for name in ("run.json", "model_index.json"))
    if told and (family := family_of(run)) != "dreambooth":
        raise UserError(
            f"Export is for runs of dreambooth, and {run} is of {family}; "
            f"`osteon generate --run {shlex.quote(str(run))}` draws from it."
        )


def check_replaceable(out: Path) -> None:
    """Raise UserError unless `out` is an older export and nothing else, or can be made."""
    nearest_folder(out, "out")
    if not out.exists():
        return
    card = out / README
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{out} exists and is no export; give another --out.")
    for path in sorted(out.rglob("*")):
        place = path.relative_to(out)
        ours = place.parts[0] in FOLDERS and (path.is_dir() or path.suffix in KINDS)
        if path.is_symlink() or not (ours or path == card):
            raise UserError(
                f"{out} holds {place}, which no export writes and which would be lost; move it "
                "away or give another --out."
            )


def copy_previews(run: Path, name: str, folder: Path) -> list[str]:
    """The newest sheets up to the weights called `name`; their paths in `folder`."""
    last = trained_steps(run, name)
    sheets = [
        sheet
        for sheet in sorted((run / "previews").glob("step-*.png"), key=step_of)
        if last is None or step_of(sheet) <= last
    ]
    for sheet in sheets[-SHEETS:]:
        (folder / "previews").mkdir(exist_ok=True)
        shutil.copy2(sheet, folder / "previews" / sheet.name)
    return [f"previews/{sheet.name}" for sheet in sheets[-SHEETS:]]


def copy_additions(weights: Path, target: Path) -> None:
    """The run's own files are diffusers' format already."""
    target.mkdir()
    for name in (FILE, WORD):
        if (weights / name).exists():
            shutil.copy2(weights / name, target / name)


@torch.no_grad()
def write_merged(
    pipeline: StableDiffusionPipeline, wanted: dict[str, torch.Tensor], target: Path
) -> None:
    """Merge adapters, go to fp16, save, open again and compare. `pipeline` is changed.

    Args:
        wanted: its `outputs`.
    """
    if _adapted(pipeline.unet) or _adapted(pipeline.text_encoder):
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    for name, value in outputs(pipeline).items():
        if (value - wanted[name]).abs().max() > CLOSE * wanted[name].abs().max():
            raise RuntimeError(f"Merging changed the {name} of the pipeline.")
    pipeline.to(torch.float16)
    save_pipeline(pipeline, target)
    again = open_pipeline(target)
    for part in NETWORKS:  # one at a time is float32 again
        own, got = getattr(pipeline, part), getattr(again, part)
        compare_states(own.float().state_dict(), got.state_dict(), target)
        own.half()


def _adapted(network: Any) -> bool:
    return bool(getattr(network, "peft_config", None))


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        prog="osteon export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, type=Path, help="a run of dreambooth")
    parser.add_argument("--out", type=Path, help="folder to write (default RUN/export)")
    parser.add_argument("--weights", default="newest", help="newest, best, or a step's number")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to the hub as this model")
    parser.add_argument(
        "--private", action="store_true", help="with --push: a new model is private"
    )
    given = parser.parse_args(argv)
    out = given.out or given.run / "export"
    if given.private and not given.push:
        parser.error("--private goes with --push OWNER/NAME")
    if given.push:
        check_push(given.push)
    for folder in export(given.run, out, given.weights, public=bool(given.push)):
        print(folder)
    if given.push:
        return print(push(out, given.push, given.private))
    print(
        f"Next: read {out / README}; `hf upload OWNER/NAME {shlex.quote(str(out))}`, or --push "
        "OWNER/NAME, puts it on the hub."
    )


if __name__ == "__main__":
    sys.exit(main())
