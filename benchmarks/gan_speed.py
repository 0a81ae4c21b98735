"""The WGAN-GP trainer against a plain loop written from the thesis, in one run.

    python benchmarks/gan_speed.py                       # 256 px, batch 16, as on two cores
    python benchmarks/gan_speed.py --batch 128 --out benchmarks/results/gan_speed_gpu.json

Both read the same PNGs, draw the same numbers and begin with the same weights; their losses of the
first steps are compared, and their times. The plain loop is what one writes first: files decoded
again each time, a graph through the generator for the critic too, the losses read at every update.
It adds up in the trainer's order: Adam's first steps are as long for a gradient of rounding errors
as for any other, so another order is another run after some steps.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.device import pick_device
from core.images import open_image
from core.runs import read_metrics
from core.seeds import epoch_batch_at
from core.sets import open_set
from gan.batches import draw_numbers
from gan.settings import WganGpSettings
from gan.train_wgan_gp import train
from gan.weights import make_networks

FLUSH = 10  # steps after which the trainer has waited for the device


def plain_loop(settings: WganGpSettings, device: str) -> list[dict[str, float]]:
    """Train for `settings.steps`. Rows of critic_loss (mean over the updates), generator_loss and
    seconds, one a step."""
    images = open_set(settings.data)
    torch.manual_seed(settings.seed)
    generator, critic = (network.to(device) for network in make_networks(settings))
    generator_adam = torch.optim.Adam(generator.parameters(), settings.lr, settings.betas)
    critic_adam = torch.optim.Adam(critic.parameters(), settings.lr, settings.betas)
    rows, began = [], time.perf_counter()
    for step in range(settings.steps):
        items = epoch_batch_at(step, len(images), settings.batch, settings.seed)
        grey = [np.asarray(open_image(images.paths[item], "L")) for item in items]
        real = (torch.tensor(np.stack(grey)).float() / 255)[:, None].to(device)
        numbers = draw_numbers(settings, step, len(items))
        noise, alphas = numbers["noise"].to(device), numbers["alpha"].to(device)
        losses = []
        for k in range(settings.critic_steps):
            fake = generator(noise[:, k])
            real_score, fake_score = critic(real).mean(), critic(fake).mean()
            alpha = alphas[:, k].reshape(-1, 1, 1, 1)
            mixed = real * alpha + fake * (1 - alpha)
            scores = critic(mixed)
            gradient = torch.autograd.grad(
                scores, mixed, torch.ones_like(scores), create_graph=True, retain_graph=True
            )[0]
            penalty = ((gradient.reshape(len(real), -1).norm(2, dim=1) - 1) ** 2).mean()
            loss = fake_score - real_score + settings.penalty * penalty
            critic_adam.zero_grad()
            loss.backward()
            critic_adam.step()
            losses.append(loss.item())
        generator_adam.zero_grad()
        loss = -critic(generator(noise[:, -1])).mean()
        loss.backward()
        generator_adam.step()
        rows.append(
            {
                "critic_loss": sum(losses) / len(losses),
                "generator_loss": loss.item(),
                "seconds": time.perf_counter() - began,
            }
        )
    return rows


def largest_difference(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Of both players' losses, over all steps."""
    return max(
        abs(one[name] - other[name])
        for one, other in zip(rows, others, strict=True)
        for name in ("critic_loss", "generator_loss")
    )


def write_noise(folder: Path, count: int, size: int) -> None:
    """Grey PNGs: what is in them does not matter to the clock."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (size // 8, size // 8), dtype=np.uint8)
        Image.fromarray(pixels).resize((size, size)).save(folder / f"{number:04d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2 * FLUSH, help="timed and compared")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    arguments = parser.parse_args()
    device = pick_device()
    with tempfile.TemporaryDirectory() as place:
        write_noise(Path(place) / "images", 4 * arguments.batch, arguments.size)
        settings = WganGpSettings(
            data=f"{place}/images",
            run_dir=f"{place}/run",
            steps=FLUSH + arguments.steps + 1,  # the first ones warm up
            epochs=None,
            size=arguments.size,
            batch=arguments.batch,
            preview_every=0,
        )
        train(settings)
        ours = read_metrics(Path(settings.run_dir))
        plain = plain_loop(replace(settings, run_dir=""), device)
    times = {
        name: (rows[-1]["seconds"] - rows[FLUSH]["seconds"]) / arguments.steps
        for name, rows in (("plain", plain), ("ours", ours))
    }
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "size": arguments.size,
        "batch": arguments.batch,
        "seconds_per_step": times,
        "images_per_second": {name: arguments.batch / seconds for name, seconds in times.items()},
        "times_as_fast": times["plain"] / times["ours"],
        "largest_loss_difference_20_steps": largest_difference(ours[:20], plain[:20]),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
