"""Images per second and peak memory of the LoRA loop, beside the way diffusers' script works.

    python benchmarks/lora_speed.py --data data/sinomacrops_64
    python benchmarks/lora_speed.py --data data/x --base full --size 512 --precision bf16  # a GPU

Same model, images, batch, precision and adapters, in processes of their own, taking turns; medians
over the rounds.
The other way is written after examples/dreambooth/train_dreambooth_lora.py: every step opens the
images, encodes them, and encodes the prompt. "compiled" is the trainer with `compile: true`; the
script has no such setting; "start_s", until the first step has ended, holds what compiling takes.
"full" is Stable Diffusion 2 built from its configuration with random weights. Writes
benchmarks/results/lora_speed.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.device import peak_memory_mb, pick_device, processor
from core.errors import command
from core.files import read_json, write_json
from core.images import list_images, open_image
from core.session import Session
from finetune.models import tokenize
from finetune.settings import DreamBoothSettings, Lora
from finetune.train_dreambooth import train

ROOT = Path(__file__).resolve().parents[1]
FULL = Path("runs/sd2-random")
RESULT = ROOT / "benchmarks" / "results" / "lora_speed.json"
WARM = 5  # steps that are not counted
WAYS = ("usual", "ours", "compiled")


class Pictures(Dataset):
    """As DreamBoothDataset: opened and transformed each time they are asked for."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths = list_images(folder)
        self.transform = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return 1_000_000  # an endless stream

    def __getitem__(self, place: int) -> torch.Tensor:
        return self.transform(open_image(self.paths[place % len(self.paths)]))


def usual_way(base: Path, data: Path, size: int, batch: int, steps: int, precision: str) -> float:
    """Images per second of a loop that keeps nothing between steps."""
    accelerator = Accelerator(mixed_precision=precision)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    unet, vae, encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for network in (unet, vae, encoder):
        network.requires_grad_(False).to(accelerator.device, dtype=half)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    cast_training_params(unet, dtype=torch.float32)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4)
    loader = DataLoader(Pictures(data, size), batch, shuffle=False)
    unet, optimiser, loader = accelerator.prepare(unet, optimiser, loader)
    unet.train()
    began = 0.0
    for step, pixels in zip(range(steps), loader, strict=False):
        if step == WARM:
            _wait()
            began = time.monotonic()
        with accelerator.accumulate(unet):
            latents = vae.encode(pixels.to(dtype=half)).latent_dist.sample()
            latents = latents * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, len(scheduler), (batch,), device=latents.device)
            noisy = scheduler.add_noise(latents, noise, timesteps)
            tokens = tokenize(pipeline.tokenizer, ["a photo of sks"] * batch)
            words = encoder(tokens.to(latents.device), return_dict=False)[0]
            guess = unet(noisy, timesteps, words, return_dict=False)[0]
            wanted = scheduler.get_velocity(latents, noise, timesteps)
            loss = F.mse_loss(guess.float(), wanted.float(), reduction="mean")
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
        loss.detach().item()  # its progress bar shows every loss
    _wait()
    return (steps - WARM) * batch / (time.monotonic() - began)


def our_way(
    base: Path, data: Path, size: int, batch: int, steps: int, run: Path, compiled: bool
) -> tuple[float, float]:
    """Images per second of the trainer itself, and seconds until its first step has ended.

    Timed as the usual way is: the device is waited for at both ends.
    """
    began = time.monotonic()
    marks: dict[int, float] = {}
    log = Session.log

    def timed(session: Session, **values: Any) -> None:
        if session.step + 1 in (1, WARM, steps):
            _wait()
            marks[session.step + 1] = time.monotonic() - began
        log(session, **values)

    with mock.patch.object(Session, "log", timed):
        _train(base, data, size, batch, steps, run, compiled)
    return (steps - WARM) * batch / (marks[steps] - marks[WARM]), marks[1]


def _train(
    base: Path, data: Path, size: int, batch: int, steps: int, run: Path, compiled: bool
) -> None:
    train(
        DreamBoothSettings(
            data=str(data),
            run_dir=str(run),
            base=str(base),
            steps=steps,
            size=size,
            batch=batch,
            prompt="a photo of sks",
            lora=Lora(),
            checkpoint_every=0,
            compile=compiled,
        )
    )


def build_full() -> None:
    """Stable Diffusion 2 (768-v) from its configuration, random weights, in FULL."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models" / "sd2-mini" / "tokenizer")
    unet = UNet2DConditionModel(
        sample_size=96,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(
        **blocks, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=768
    )
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(FULL)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _apart(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One way in a process of its own, so that each has its own peak."""
    words = [
        f"--{name}={value}"
        for name, value in vars(arguments).items()
        if name not in ("way", "rounds")
    ]
    command_line = [sys.executable, __file__, *words, f"--way={way}"]
    environment = os.environ | {"ACCELERATE_MIXED_PRECISION": arguments.precision}
    done = subprocess.run(
        command_line, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _run(given: argparse.Namespace) -> None:
    """One way; prints a line of JSON."""
    base = FULL if given.base == "full" else Path(given.base)
    pictures = Path(given.data) / "train" if (Path(given.data) / "train").is_dir() else given.data
    common = (base, Path(pictures), given.size, given.batch, given.steps)
    found = {}
    if given.way == "usual":
        speed = usual_way(*common, given.precision)
    else:
        run = Path(f"runs/lora-speed-{time.time_ns()}")
        speed, found["start_s"] = our_way(*common, run, given.way == "compiled")
    found |= {"images_per_second": speed, "memory_mb": peak_memory_mb(torch.device(pick_device()))}
    print(json.dumps(found))


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--base", default="models/sd2-mini", help='folder, or "full"')
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=["all", *WAYS], default="all")
    given = parser.parse_args(argv)
    if given.way != "all":
        return _run(given)
    if given.base == "full" and not (FULL / "model_index.json").exists():
        build_full()
    turns = [{way: _apart(way, given) for way in WAYS} for _ in range(given.rounds)]
    found = {way: _medians([turn[way] for turn in turns]) for way in WAYS}
    for way, values in found.items():
        pairs = [(turn[way], turn["usual"]) for turn in turns]
        ratios = [own["images_per_second"] / usual["images_per_second"] for own, usual in pairs]
        values |= {"faster": statistics.median(ratios), "faster_range": [min(ratios), max(ratios)]}
        values["memory_ratio"] = values["memory_mb"] / found["usual"]["memory_mb"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    setup = {name: value for name, value in vars(given).items() if name != "way"}
    machine = {"device": device, "threads": torch.get_num_threads()}
    machine |= {"cpu": torch.backends.cpu.get_cpu_capability(), "processor": processor()}
    machine |= {"family": f"{processor('cpu family')}, model {processor('model')}"}
    row = setup | machine | found
    rows = read_json(RESULT) if RESULT.exists() else []
    write_json(RESULT, [*rows, row])
    for way, values in found.items():
        least, most = values["faster_range"]
        print(
            f"{way:9} {values['images_per_second']:8.2f} images/s ({values['faster']:.2f} times, "
            f"{least:.2f} to {most:.2f}), {values['memory_ratio']:.2f} of the memory"
        )
    print(f"Kept in {RESULT}.")


if __name__ == "__main__":
    main()
