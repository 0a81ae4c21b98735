"""`osteon demo`: the whole way in miniature, on pictures drawn by the program itself.

A pterosaur the base model has never seen, from five pictures; chest X-ray phantoms by a fine-tuned
diffusion model, a WGAN-GP and a VAE; images from all, and a report on each. Every stage is a
command of its own, printed before it runs; a stopped demo goes on.
"""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Parser, UserError, command
from core.verbs import is_finished, run_verb

ROOT = Path(__file__).resolve().parents[1]
GENUS = "Sinomacrops bondei"
PROMPTS = "prompts/sinomacrops.txt"
CHEST = "data/demo-chest:test"  # prompts: the captions of patients no model has seen


@dataclass(frozen=True)
class Stage:
    """One command of the demo."""

    title: str
    words: str
    """Of the `osteon` command line; {name} marks a value with spaces."""
    run: str = ""
    """Run folder that, once finished, makes this stage unnecessary."""


STAGES = (
    Stage(
        f"Draw five pictures of {GENUS}, and twenty to compare with",
        "prepare phantoms --kind bestiary --animal {genus} --style photo --count 5 "
        "--validation 0 --test 20 --seed 7 --out data/demo-sinomacrops",
    ),
    Stage(
        "Draw chest X-ray phantoms",
        "prepare phantoms --kind chest --count 400 --validation 0 --test 200 --seed 8 "
        "--out data/demo-chest",
    ),
    Stage(
        f"Teach the base model {GENUS} (LoRA)",
        "train dreambooth --config configs/dreambooth/species_lora_mini.yaml "
        "--data data/demo-sinomacrops --run_dir runs/demo-sinomacrops --preview_every 300",
        run="runs/demo-sinomacrops",
    ),
    Stage(
        "Fine-tune the base model on the X-ray phantoms (LoRA)",
        "train dreambooth --config configs/dreambooth/nih_lora_mini.yaml "
        "--data data/demo-chest --run_dir runs/demo-chest-lora --steps 80 --batch 8 "
        "--preview_every 0",
        run="runs/demo-chest-lora",
    ),
    Stage(
        "Train a WGAN-GP on them",
        "train wgan-gp --config configs/gan/small_64.yaml "
        "--data data/demo-chest --run_dir runs/demo-chest-gan --steps 100",
        run="runs/demo-chest-gan",
    ),
    Stage(
        "Train a VAE on them",
        "train vae --config configs/vae/small_64.yaml "
        "--data data/demo-chest --run_dir runs/demo-chest-vae --steps 300",
        run="runs/demo-chest-vae",
    ),
    Stage(
        f"Ask the base model for {GENUS}",
        "generate --run models/sd2-mini --seeds 0-15 --set sinomacrops --prompts {prompts} "
        "--scheduler dpm++ --steps 12",
    ),
    Stage(
        "Ask the tuned model for the same",
        "generate --run runs/demo-sinomacrops --seeds 0-15 --prompts {prompts} "
        "--scheduler dpm++ --steps 12",
    ),
    Stage(
        "X-rays from the fine-tuned model",
        "generate --run runs/demo-chest-lora --seeds 0-63 --prompts {chest} "
        "--scheduler dpm++ --steps 12",
    ),
    Stage("X-rays from the WGAN-GP", "generate --run runs/demo-chest-gan --seeds 0-63"),
    Stage("X-rays from the VAE", "generate --run runs/demo-chest-vae --seeds 0-63"),
    Stage(
        "Compare the X-rays",
        "compare --real data/demo-chest --fake runs/demo-chest-lora runs/demo-chest-gan "
        "runs/demo-chest-vae --out reports/demo-chest",
    ),
    Stage(
        f"Compare the pictures of {GENUS}",
        "compare --real data/demo-sinomacrops --fake runs/sd2-mini/samples/sinomacrops "
        "runs/demo-sinomacrops --out reports/demo-sinomacrops",
    ),
)


def arguments_of(stage: Stage) -> list[str]:
    values = {"{genus}": GENUS, "{prompts}": PROMPTS, "{chest}": CHEST}
    return [values.get(word, word) for word in stage.words.split()]


def run_stage(stage: Stage, number: int) -> None:
    """Run one command to its end. Raises UserError if it fails, Interrupted after Ctrl-C."""
    words = arguments_of(stage)
    print(f"\n[{number}/{len(STAGES)}] {stage.title}", flush=True)
    if stage.run and is_finished(Path(stage.run)):
        print(f"      done already: {stage.run}")
        return
    print(f"      osteon {shlex.join(words)}", flush=True)
    began = time.monotonic()
    run_verb(words, f"stage {number}")
    print(f"      {time.monotonic() - began:.0f} s", flush=True)


@command
def main(argv: Sequence[str] | None = None) -> None:
    Parser(prog="osteon demo", description=__doc__).parse_args(argv)
    if not (ROOT / "models/sd2-mini").is_dir():
        raise UserError("models/sd2-mini is missing; fetch it again: git checkout models/sd2-mini")
    os.chdir(ROOT)
    began = time.monotonic()
    for number, stage in enumerate(STAGES, 1):
        run_stage(stage, number)
    print(f"\nAll of it took {(time.monotonic() - began) / 60:.1f} minutes. Open the reports:")
    for name in ("demo-sinomacrops", "demo-chest"):
        print(f"  {ROOT / 'reports' / name / 'report.html'}")
    print("Then play with the models:  osteon app")


if __name__ == "__main__":
    main()
