"""A trainer of a dozen lines and its sampler: what `core` promises is tested on them for real."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.config import parse
from core.errors import UserError, command
from core.families import Family
from core.files import atomic_folder
from core.images import from_array
from core.seeds import batch_at, image_noise, stream
from core.session import Session
from core.sets import open_set

FAMILY = Family(
    "Toy", "tests/core/toy.py", "tests.core.toy:ToySettings", "tests.core.toy:load_sampler", True
)


@dataclass(frozen=True)
class ToySettings:
    """Settings of the toy."""

    data: str
    run_dir: str
    steps: int = 6
    seed: int = 0
    lr: float = 0.1
    checkpoint_every: int = 2
    checkpoints_kept: int = 2
    tracker: str = "none"
    fail_at: int = -1
    nan_at: int = -1
    pause: float = 0.0  # seconds in each step


def train(settings: ToySettings) -> None:
    """Fit the mean image; dropout and noise make every step random."""
    image_set = open_set(settings.data)
    session = Session("toy", settings, image_set)
    model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(0.5))
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr)
    session.start({"model": model, "optimiser": optimiser})
    images = torch.from_numpy(image_set.pixels(8, "L")).float().div(255).flatten(1)
    for step in session.steps(2):
        chosen = batch_at(step, len(images), 2, settings.seed)
        noise = torch.randn(2, 4, generator=stream(settings.seed, "noise", step))
        loss = (model(noise) - images[chosen]).square().mean()
        if step == settings.nan_at:
            loss = loss * float("nan")
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        session.log(loss=loss)
        time.sleep(settings.pause)
        if step == settings.fail_at:
            raise RuntimeError("power cut")
    with atomic_folder(session.run.weights) as folder:
        save_file(model.state_dict(), folder / "model.safetensors")
    session.finish()


class ToySampler:
    """Seed and prompt to an 8 x 8 grey image."""

    options: dict[str, Any] = {"gain": 1.0}  # noqa: RUF012
    default_prompts = ["dark", "light"]  # noqa: RUF012

    def __init__(self, run: Path) -> None:
        self.weight = load_file(run / "weights/model.safetensors")["0.weight"]

    def __call__(
        self, seeds: Sequence[int], prompts: Sequence[str], gain: float = 1.0
    ) -> list[Image.Image]:
        if gain <= 0:
            raise UserError(f"gain must be above 0, not {gain}.")
        light = torch.tensor([100.0 * (prompt == "light") for prompt in prompts])
        values = image_noise(seeds, (4,)) @ self.weight.T * gain * 50 + 100 + light[:, None]
        pixels = values.clamp(0, 255).round().to(torch.uint8).view(-1, 8, 8)
        return from_array(pixels.numpy())


def load_sampler(run: Path, device: str) -> ToySampler:
    return ToySampler(run)


@command
def main(argv: Sequence[str] | None = None) -> None:
    train(parse(ToySettings, argv, "Train the toy.").settings)


if __name__ == "__main__":
    sys.exit(main())
