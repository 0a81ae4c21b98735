"""What a run will take: its parts tried beforehand, without a trace.

Gradients of a try are dropped, updates are made on copies, and what the loop draws at random is a
function of seed and step alone: so tries change nothing that is learned.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from core.device import peak_memory_mb
from core.ema import Ema
from core.state import save_state
from finetune.optimisers import MOMENTS, build_optimiser, gather, look
from finetune.settings import DreamBoothSettings
from finetune.trained import Trained, local
from finetune.validation import TIMESTEPS

FLOAT = 4  # bytes
TRIES = 3  # of each part, after one that warms up
PATIENCE = 10.0  # seconds of tries after which there is no further one
DENOISED = 4  # steps of a sampler that are tried
COPIED = 2**22  # trained numbers, about, on which updates and saves are tried
SIDE = 1024  # of the matrices by which a processor's speed is told
PNG = 2  # bytes a pixel, about


@dataclass(frozen=True)
class Work:
    """What a run does again and again; each can be tried."""

    fetch: Callable[[], Any]
    """Images, noise and words of a step."""
    piece: Callable[[], Any]
    """Forward and backward of one piece of a step, without an update; its gradients dropped."""
    draw: Callable[..., Any]
    """So many images by the sampler, with its options."""
    at_once: int
    """Images that it draws together."""
    denoised: int
    """Steps in which an image is drawn."""
    opened: float
    """Seconds in which the base was opened, as every save does again to check itself."""
    measure: Callable[[], float]
    """Seconds that scores of as many images as are held out take."""
    agreed: Callable[[float], float] = float
    """Seconds of a piece, the same for all processes where they work at one together."""


@dataclass(frozen=True)
class Looks:
    """How much is drawn on the way."""

    sheet: int = 0
    """Images of a preview."""
    held_out: int = 0
    """Images of a validation."""


@dataclass(frozen=True)
class Seconds:
    """What one of each takes."""

    step: float
    image: float = 0.0
    """Drawn by the sampler."""
    guess: float = 0.0
    """The UNet's forward pass for one image, without gradients."""
    measure: float = 0.0
    checkpoint: float = 0.0
    weights: float = 0.0

    def parts(self, settings: DreamBoothSettings, looks: Looks) -> dict[str, float]:
        """Of the whole run, by what they go to. Of validations half are taken to be the best yet,
        whose weights are kept."""
        validations = times(settings.validate_every, settings.steps)
        validation = looks.held_out * (self.image + TIMESTEPS * self.guess) + self.measure
        written = 1 + validations / 2 + sum(n <= settings.steps for n in settings.keep_weights)
        found = {
            "steps": settings.steps * self.step,
            "previews": times(settings.preview_every, settings.steps) * looks.sheet * self.image,
            "validations": validations * validation,
            "saves": written * self.weights
            + times(settings.checkpoint_every, settings.steps) * self.checkpoint,
        }
        return {name: round(seconds, 1) for name, seconds in found.items()}


def times(every: int, steps: int) -> int:
    """How often what is due `every` so many steps, and at the last, is done."""
    return -(-steps // every) if every else 0


def beside(settings: DreamBoothSettings) -> int:
    """Bytes kept beside each trained number: the optimiser's, and the running average."""
    return MOMENTS[settings.optim.name] + FLOAT * (settings.ema_decay is not None)


def disk_needed(settings: DreamBoothSettings, trained: int, total: int) -> int:
    """Bytes of checkpoints (weights, moments, average), one more while it is written; of weights/
    and others kept."""
    return _disk(settings, trained, total, settings.checkpoints_kept + 1)


def disk_again(settings: DreamBoothSettings, trained: int, total: int) -> int:
    """Bytes of one checkpoint and of one weights/, which are written before older ones go."""
    checkpoint = trained * (FLOAT + beside(settings)) * bool(settings.checkpoint_every)
    return checkpoint + FLOAT * (total if settings.whole else trained)


def disk_left(
    settings: DreamBoothSettings, trained: int, total: int, looks: Looks, size: int
) -> int:
    """Bytes of the run folder at the end, with all that was drawn, `size` pixels a side."""
    done = times(settings.checkpoint_every, settings.steps)
    drawn = looks.sheet * times(settings.preview_every, settings.steps)
    drawn += looks.held_out * times(settings.validate_every, settings.steps)
    kept = _disk(settings, trained, total, min(done, settings.checkpoints_kept))
    return kept + drawn * PNG * size**2


def _disk(settings: DreamBoothSettings, trained: int, total: int, checkpoints: int) -> int:
    """Bytes. `trained`, `total`: numbers of parameters."""
    kept = checkpoints * bool(settings.checkpoint_every) * trained * (FLOAT + beside(settings))
    reached = sum(step <= settings.steps for step in settings.keep_weights)
    written = 1 + (settings.validate_every > 0) + reached
    return kept + written * FLOAT * (total if settings.whole else trained)


def estimate(
    settings: DreamBoothSettings,
    work: Work,
    looks: Looks,
    trained: Trained,
    device: torch.device,
    run: Path,
) -> dict[str, Any]:
    """Seconds of training, what they go to, and MB at the peak on this process.

    Args:
        run: where it is, or will be, files are written, and removed again, to see how long it
            takes.
    """
    piece = tried(work.piece, device, work.agreed)
    step = tried(work.fetch, device) + settings.accumulate * piece
    updated, saved = _try_copies(settings, trained, device, run)
    image = guess = measure = 0.0
    most = max(looks.sheet, looks.held_out)
    if most:
        image, guess = try_drawing(work, min(most, work.at_once), device)
    if looks.held_out:
        measure = work.measure()
    checkpoint = saved * (FLOAT + beside(settings)) * len(trained)
    one = Seconds(step + updated, image, guess, measure, checkpoint, 2 * work.opened)
    parts = one.parts(settings, looks)
    moments = beside(settings) * trained.here // 2**20
    return {
        "seconds": round(sum(parts.values()), 1),
        "memory_mb": peak_memory_mb(device) + moments,  # which are made at the first update
        "parts": parts,
    }


def tried(
    work: Callable[[], Any], device: torch.device, agreed: Callable[[float], float] = float
) -> float:
    """Seconds that `work` takes: the median of up to TRIES, after one that warms up."""
    found: list[float] = []
    while len(found) <= TRIES and sum(found[1:]) < PATIENCE:
        _wait(device)
        began = time.monotonic()
        work()
        _wait(device)
        found.append(agreed(time.monotonic() - began))
    return statistics.median(found[1:])


def _try_copies(
    settings: DreamBoothSettings, trained: Trained, device: torch.device, run: Path
) -> tuple[float, float]:
    """Seconds of an update of all that is trained, and of saving one byte."""
    copies: list[torch.nn.Parameter] = []
    count = 0
    for parameter in trained.parameters.values():
        copies.append(torch.nn.Parameter(local(parameter).clone()))
        copies[-1].grad = torch.full_like(copies[-1], 1e-4)
        count += copies[-1].numel()
        if count >= COPIED:
            break
    packed = not settings.whole
    optimiser = build_optimiser([{"params": copies}], settings.optim, device, packed)
    look(optimiser, training=True)
    ema = Ema(copies, settings.ema_decay) if settings.ema_decay is not None else None

    def update() -> None:
        gather(optimiser)
        if settings.optim.clip_norm:
            learned = [each for group in optimiser.param_groups for each in group["params"]]
            torch.nn.utils.clip_grad_norm_(learned, settings.optim.clip_norm)
        optimiser.step()
        if ema is not None:
            ema.update(copies, 0)

    seconds = tried(update, device) * trained.here / count
    near = (run.absolute(), *run.absolute().parents)  # the run's own may be another disk
    there = next(folder for folder in near if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=there, prefix=".plan-") as folder:
        began = time.monotonic()
        save_state({"copies": [copy.detach() for copy in copies]}, Path(folder))
        return seconds, (time.monotonic() - began) / (FLOAT * count)


def try_drawing(work: Work, count: int, device: torch.device) -> tuple[float, float]:
    """Seconds of drawing one of `count` images, and of one forward pass for it."""
    marks = []

    def mark(*_: Any) -> None:
        _wait(device)
        marks.append(time.monotonic())

    work.draw(count, steps=1)
    began = time.monotonic()
    work.draw(count, steps=DENOISED, on_step=mark)
    seconds = time.monotonic() - began
    step = statistics.median(later - earlier for earlier, later in pairwise(marks))
    whole = seconds + (work.denoised - DENOISED) * step
    return whole / count, step / (2 * count)  # guided: two passes a step


def reckon(
    settings: DreamBoothSettings, piece: Callable[[], Any], guess: Callable[[], Any], steps: int
) -> Seconds:
    """From numbers of operations, where a try would take too long: nothing but the networks.

    Args:
        piece, guess: as in `Work`, on the "meta" device; `guess` for one image.
        steps: of the sampler.
    """
    square = torch.ones(SIDE, SIDE)
    rate = 2 * SIDE**3 / tried(lambda: square @ square, square.device)  # operations a second
    learned, guessed = (_operations(work) / rate for work in (piece, guess))
    return Seconds(settings.accumulate * learned, 2 * steps * guessed, guessed)


def _operations(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
