"""Is the embedded base worth starting from? Fine-tune it, and the same network from random weights.

    python benchmarks/base_finetune.py --data data/nih64 --steps 300

Both runs train every weight of the UNet for the same steps on the same batches; the second starts
from a base whose UNet and text encoder are drawn anew (the autoencoder is shared: without it
nothing could be decoded). Then 200 images of each, with the held-out patients' captions, against
the held-out patients. Writes reports/base-finetune; its results.json and report.md are kept in
benchmarks/results/base-finetune/.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from core.errors import UserError, command

BASE = Path("models/sd2-mini")
RANDOM = Path("runs/sd2-mini-random")


def write_random_base(seed: int) -> None:
    """The base's folder with UNet and text encoder from random weights."""
    if (RANDOM / "model_index.json").exists():
        return
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    torch.manual_seed(seed)
    pipeline.unet = type(pipeline.unet).from_config(pipeline.unet.config)
    pipeline.text_encoder = type(pipeline.text_encoder)(pipeline.text_encoder.config)
    pipeline.save_pretrained(RANDOM)


def osteon(*words: str) -> None:
    print("osteon", *words, flush=True)
    code = subprocess.run([sys.executable, "-m", "core.cli", *words]).returncode
    if code:
        raise UserError(f"osteon {words[0]} ended with code {code}.")


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/nih64")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args(argv)
    write_random_base(seed=0)
    runs = {"base-finetune-from-mini": BASE, "base-finetune-from-random": RANDOM}
    for name, base in runs.items():
        words = ["--data", arguments.data, "--base", str(base), "--run_dir", f"runs/{name}"]
        words += ["--lora", "null", "--steps", str(arguments.steps), "--batch", "16"]
        words += ["--min_snr_gamma", "5", "--optim.lr", "5e-4", "--optim.schedule", "cosine"]
        osteon("train", "dreambooth", *words, "--text_encoder", "true")
        seeds = f"0-{arguments.images - 1}"
        prompts = f"{arguments.data}:test"
        words = ["--run", f"runs/{name}", "--seeds", seeds, "--prompts", prompts]
        osteon("generate", *words, "--scheduler", "dpm++", "--steps", "12")
    folders = [f"runs/{name}" for name in runs]
    words = ["--real", arguments.data, "--fake", *folders, "--out", "reports/base-finetune"]
    osteon("compare", *words)
    kept = Path("benchmarks/results/base-finetune")
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("results.json", "report.md"):
        shutil.copyfile(Path("reports/base-finetune") / file, kept / file)


if __name__ == "__main__":
    main()
