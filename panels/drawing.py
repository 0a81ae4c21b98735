"""Pictures one by one, with progress: a model runs in a thread of its own and can be stopped.

    for event in draw(resident, tasks, folder):   # Progress ..., Picture, Progress ..., Picture
        ...

Leaving the loop early stops the model at its next denoising step; pictures already made are kept.
"""

import hashlib
import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from PIL import Image

from core.errors import UserError
from panels.catalogue import Model
from panels.label import labelled, strip_height, unlabelled
from panels.resident import Resident
from panels.thumbnails import data_uri

REPORT_EVERY = 0.1  # seconds between two reports of progress, at least
PREVIEW_SHARE = 0.2  # of the time, at most, goes into previews
log = logging.getLogger("osteon.app")


@dataclass(frozen=True)
class Mix:
    """A place between seeds (or a GAN's or VAE's saved vectors) and between prompts, each with its
    weight."""

    seeds: tuple[tuple[int | str, float], ...]
    prompts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Task:
    """One picture to make."""

    model: Model
    seed: int
    prompt: str
    """ "": the model's own prompts, seed s taking number s modulo their count."""
    options: dict[str, Any]
    """Settings of the call; those that the model's family does not know are left out."""
    loras: Mapping[Model, float] = field(default_factory=dict)
    """LoRA runs to mix in, and their scales."""
    label: bool = False
    """Whether a visible mark goes below the picture."""
    mix: Mix | None = None
    """In place of the seed and the prompt."""
    keep: str = ""
    """Name by which to save the vector of the mix; "": not at all."""


@dataclass(frozen=True)
class Progress:
    """Where the work stands."""

    place: int
    """Number of the task in hand, from 0."""
    words: str
    share: float = 0.0
    """Of this picture, 0 to 1."""
    preview: str = ""
    """The unfinished picture, as the address of an <img>; "": none now."""

    def share_of(self, count: int) -> float:
        """Of all the work, 0 to 1."""
        return (self.place + self.share) / count


@dataclass(frozen=True)
class Picture:
    """A finished picture."""

    place: int
    model: Model
    path: Path
    """PNG that carries `facts`."""
    facts: dict[str, Any]
    """Seed, prompt, run, family and settings, as `osteon generate` writes them; "label" is the
    height of the visible mark below."""

    def open(self) -> Image.Image:
        """As the model drew it, without the mark."""
        with Image.open(self.path) as image:
            image.load()
            return unlabelled(image, self.facts.get("label", 0))


@dataclass(frozen=True)
class Failure:
    """A task that made no picture."""

    place: int
    sentence: str


Event = Progress | Picture | Failure


class _Stopped(Exception):
    """Raised inside the model to leave it."""


def draw(resident: Resident, tasks: Sequence[Task], folder: Path) -> Iterator[Event]:
    """Work through `tasks` in order; PNGs go to `folder`/<model>/."""
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    stop = threading.Event()
    hand = _Hand(resident, folder, events.put, stop)

    def work() -> None:
        try:
            for place, task in enumerate(tasks):
                events.put(hand.attempt(task, place))
        except _Stopped:
            pass
        finally:
            events.put(None)

    worker = threading.Thread(target=work, name="osteon-drawing", daemon=True)
    worker.start()
    try:
        while (event := events.get()) is not None:
            yield event
    finally:
        stop.set()
        worker.join()


@dataclass(frozen=True)
class _Hand:
    """What draws, inside the thread."""

    resident: Resident
    folder: Path
    say: Callable[[Event], None]
    stop: threading.Event

    def attempt(self, task: Task, place: int) -> Picture | Failure:
        """What goes wrong becomes a sentence; its traceback goes to the terminal."""
        try:
            return self.make(task, place)
        except UserError as error:
            return Failure(place, str(error))
        except _Stopped:
            raise
        except Exception as error:
            log.exception("%s drew nothing", task.model.name)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            sentence = f"{task.model.name} drew nothing ({reason}); the terminal tells more."
            return Failure(place, sentence)

    def make(self, task: Task, place: int) -> Picture:
        """Load the model if another is in memory, draw, write."""
        if self.stop.is_set():
            raise _Stopped
        model = task.model
        if not self.resident.holds(model.folder):
            first = (
                "" if "torch" in sys.modules else ", and what it runs on (longer the first time)"
            )
            self.say(Progress(place, f"loading {model.folder.name}{first}"))
        with self.resident.use(model.folder) as sampler:
            from core.generate import settings_of, write_sample  # torch

            prompt = _prompt(task, sampler.default_prompts)
            options = {k: v for k, v in task.options.items() if k in sampler.options}
            named = dict(options)
            if task.loras:
                if "loras" not in sampler.options:
                    raise UserError(f"No LoRA can be mixed into {model.name}.")
                options["loras"] = {str(run.folder): x for run, x in task.loras.items()}
                named["loras"] = {run.name: x for run, x in task.loras.items()}
            watch: dict[str, Any] = {}
            if "steps" in sampler.options:  # drawn step by step: it can be watched and stopped
                watch["on_step"] = self.watcher(place, sampler)
            if task.mix is None:
                (image,) = sampler([task.seed], [prompt], **options, **watch)
            else:
                image = _between(sampler, task, options | watch)
                named["mix"] = asdict(task.mix)
            settings = settings_of(model.folder, "fp32", sampler.options | named)
        if task.label:
            settings["label"] = strip_height(image.width)
            image = labelled(image, settings["label"])
        facts = {"seed": task.seed, "prompt": prompt, **settings}
        path = self.folder / model.folder.name / _file_name(model.name, facts)
        write_sample(image, path, task.seed, prompt, settings)
        return Picture(place, model, path, facts)

    def watcher(self, place: int, sampler: Any) -> Callable[[int, int, Any], None]:
        """To be called after each denoising step."""
        said, looked, cost = 0.0, 0.0, 0.0

        def on_step(step: int, total: int, latents: Any) -> None:
            nonlocal said, looked, cost
            if self.stop.is_set():
                raise _Stopped
            now = time.monotonic()
            preview = ""
            if now - looked > cost / PREVIEW_SHARE:
                preview = data_uri(sampler.decode(latents[:1])[0])
                looked = time.monotonic()
                cost = looked - now
            if preview or now - said > REPORT_EVERY:
                said = now
                self.say(Progress(place, f"step {step} of {total}", step / total, preview))

        return on_step


def _between(sampler: Any, task: Task, options: dict[str, Any]) -> Image.Image:
    """By the family's own way, or through its latent vectors. Raises UserError without either, or
    for a vector that is not saved."""
    mix = cast(Mix, task.mix)
    named = [key for key, _ in mix.seeds if isinstance(key, str)]
    if hasattr(sampler, "mix"):
        if named or task.keep:
            raise UserError("Vectors are saved of a GAN or VAE; for a diffusion model give seeds.")
        image: Image.Image = sampler.mix(dict(mix.seeds), dict(mix.prompts), **options)
        return image
    if not hasattr(sampler, "from_latents"):
        raise UserError("This family has no latent vectors to mix.")
    import torch

    from core.images import from_array
    from core.vectors import write_vector

    with torch.no_grad():
        vector = _vector(mix, task.model.folder, sampler.latent_dim)
        pixels = sampler.from_latents(vector[None].to(sampler.device))  # 1 x C x H x W in [0, 1]
    if task.keep:
        write_vector(task.model.folder, task.keep, vector, str(mix.seeds))
    levels = pixels.mul(255).round().clamp(0, 255).to(torch.uint8)
    return from_array(levels.permute(0, 2, 3, 1).cpu().numpy())[0]


def _vector(mix: Mix, run: Path, d: int) -> Any:
    """d numbers: seeds alone stay N(0, I) (`mixed_noise`); with saved vectors, the plain sum."""
    from core.seeds import image_noise, mixed_noise
    from core.vectors import read_vector

    if all(isinstance(key, int) for key, _ in mix.seeds):
        return mixed_noise(dict(mix.seeds), (d,))  # type: ignore[arg-type]
    points = [
        image_noise([key], (d,))[0] if isinstance(key, int) else read_vector(run, key)
        for key, _ in mix.seeds
    ]
    return sum(weight * point for (_, weight), point in zip(mix.seeds, points, strict=True))


def _prompt(task: Task, defaults: Sequence[str]) -> str:
    """The task's own, or one of the model's. Raises UserError if there is neither."""
    if not task.model.family.prompts:
        return ""
    own = [prompt for prompt in defaults if prompt] or task.model.prompts
    if not task.prompt.strip() and not own:
        raise UserError(f"{task.model.folder.name} has no prompts of its own; write one.")
    return task.prompt.strip() or own[task.seed % len(own)]


def _file_name(model: str, facts: dict[str, Any]) -> str:
    """The seed and a digest of everything else: the same settings give the same file."""
    digest = hashlib.sha256(json.dumps([model, facts], sort_keys=True).encode()).hexdigest()
    return f"{facts['seed']:06d}-{digest[:8]}.png"
