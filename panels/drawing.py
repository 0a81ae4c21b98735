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
from panels.thumbnails import data_uri, made_up
from panels.wish import FieldError, at

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
    """Settings of the call; those that the model does not know are left out."""
    loras: Mapping[Model, float] = field(default_factory=dict)
    """LoRA runs to mix in, and their scales."""
    label: bool = False
    """Whether a visible mark goes below the picture."""
    mix: Mix | None = None
    """In place of the seed and the prompt."""
    dtype: str = "fp32"
    """"fp16" or "bf16": the network's arithmetic."""
    keep: str = ""
    """Name by which to save the vector of the mix; "": not at all."""
    needs: frozenset[str] = frozenset()
    """Settings that the model must know, or there is no picture: names of `options`, "prompt"."""


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
    """Seed, prompt, run, family and settings, as `osteon generate` writes them; "label_height" is
    that of the visible mark below."""
    loras: tuple[Model, ...] = ()
    """LoRA runs mixed in, as far as they are here."""

    def open(self) -> Image.Image:
        """As the model drew it, without the mark."""
        return as_drawn(self.path, self.facts)


def as_drawn(file: Path, facts: Mapping[str, Any]) -> Image.Image:
    """A picture without its visible mark. Raises UserError where its file is gone or damaged."""
    try:
        with Image.open(file) as image:
            image.load()
            return unlabelled(image, min(label_height(facts), image.height - 1))
    except OSError:
        raise UserError(f"The file of {file.stem} is not there any more; draw it again.") from None


def label_height(facts: Mapping[str, Any]) -> int:
    """Pixels of the visible mark; 0 without one. Older files call them "label"."""
    heights = (facts.get(name) for name in ("label_height", "label"))
    return next((height for height in heights if isinstance(height, int)), 0)


@dataclass(frozen=True)
class Failure:
    """A task that made no picture."""

    place: int
    sentence: str
    field: str = ""
    """Whose fault it is (`wish.FieldError`); "": no field's."""


Event = Progress | Picture | Failure


class _Stopped(Exception):
    """Raised inside the model to leave it."""


def reason(error: Exception) -> str:
    """What an error that was not foreseen says of itself, in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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
            return Failure(place, str(error), getattr(error, "field", ""))
        except _Stopped:
            raise
        except Exception as error:
            log.exception("%s drew nothing", task.model.name)
            sentence = f"{task.model.name} drew nothing ({reason(error)}); the terminal tells more."
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
            from core.device import pick_device
            from core.generate import autocast, settings_of, write_sample  # torch

            prompt = _prompt(task, sampler.default_prompts)
            options = _options(task, sampler.options)
            named = dict(options)
            if task.loras:
                if "loras" not in sampler.options:
                    raise UserError(f"No LoRA can be mixed into {model.name}.")
                options["loras"] = {str(run.folder): x for run, x in task.loras.items()}
                named["loras"] = {run.name: x for run, x in task.loras.items()}
            watch: dict[str, Any] = {}
            if "steps" in sampler.options:  # drawn step by step: it can be watched and stopped
                watch["on_step"] = self.watcher(place, sampler)
            with autocast(pick_device(), task.dtype):
                if task.mix is None:
                    (image,) = sampler([task.seed], [prompt], **options, **watch)
                else:
                    label = _class_of(sampler, task)
                    image = _between(sampler, task, label, options | watch)
                    named |= label | {"mix": asdict(task.mix)}
            settings = settings_of(model.folder, task.dtype, sampler.options | named)
        if task.label:
            settings["label_height"] = strip_height(image.width)
            image = labelled(image, settings["label_height"])
        facts = {"seed": task.seed, "prompt": prompt, **settings}
        path = self.folder / model.folder.name / _file_name(model.name, facts)
        write_sample(image, path, task.seed, prompt, settings)
        return Picture(place, model, path, facts, tuple(run for run, x in task.loras.items() if x))

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
                (unfinished,) = sampler.decode(latents[:1])
                preview = data_uri(made_up(unfinished))
                looked = time.monotonic()
                cost = looked - now
            if preview or now - said > REPORT_EVERY:
                said = now
                self.say(Progress(place, f"step {step} of {total}", step / total, preview))

        return on_step


def _options(task: Task, known: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the task that the model knows. Raises UserError where it needs others."""
    settable = {*known, "seed", *(["prompt"] if task.model.family.prompts else [])}
    if lacking := sorted(task.needs - settable):
        words = " and no ".join(lacking).replace("_", " ").replace("lora", "LoRA")
        raise UserError(f"{task.model.name} has no {words} to set; take another model or setting.")
    return {name: value for name, value in task.options.items() if name in known}


def _class_of(sampler: Any, task: Task) -> dict[str, str]:
    """Of a mix, where the model has classes: the one asked for, or that of its heaviest seed."""
    if not getattr(sampler, "classes", None):
        return {}
    seeds = [pair for pair in cast(Mix, task.mix).seeds if isinstance(pair[0], int)]
    seed, _ = max(seeds, key=lambda pair: pair[1], default=(0, 1.0))
    return {"label": task.options.get("label") or sampler.label_of(seed)}


def _between(
    sampler: Any, task: Task, label: dict[str, str], options: dict[str, Any]
) -> Image.Image:
    """By the family's own way, or through its latent vectors. Raises UserError without either, or
    for a vector that is not saved.

    Args:
        label: the class, where the model has classes.
    """
    mix = cast(Mix, task.mix)
    named = [key for key, _ in mix.seeds if isinstance(key, str)]
    if hasattr(sampler, "mix"):
        if named or task.keep:
            sentence = "Vectors are saved of a GAN or VAE; for a diffusion model give seeds."
            raise FieldError("seeds" if named else "keep", sentence)
        image: Image.Image = sampler.mix(dict(mix.seeds), dict(mix.prompts), **options)
        return image
    if not hasattr(sampler, "from_latents"):
        raise UserError("This family has no latent vectors to mix.")
    import torch

    from core.images import from_array
    from core.vectors import write_vector

    with torch.no_grad():
        vector = _vector(mix, task.model.folder, sampler.latent_dim)
        latents = vector[None].to(sampler.device)
        pixels = sampler.from_latents(latents, **label)  # 1 x C x H x W in [0, 1]
    if task.keep:
        with at("keep"):
            write_vector(task.model.folder, task.keep, vector, str(mix.seeds))
    levels = pixels.mul(255).round().clamp(0, 255).to(torch.uint8)
    return from_array(levels.permute(0, 2, 3, 1).cpu().numpy())[0]


def _vector(mix: Mix, run: Path, d: int) -> Any:
    """d numbers: seeds alone stay N(0, I) (`mixed_noise`); with saved vectors, the plain sum."""
    from core.seeds import image_noise, mixed_noise
    from core.vectors import read_vector

    if all(isinstance(key, int) for key, _ in mix.seeds):
        return mixed_noise(dict(mix.seeds), (d,))  # type: ignore[arg-type]
    with at("seeds"):
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
        sentence = f"{task.model.folder.name} has no prompts of its own; write one."
        raise FieldError("prompt", sentence)
    return task.prompt.strip() or own[task.seed % len(own)]


def _file_name(model: str, facts: dict[str, Any]) -> str:
    """The seed and a digest of everything else: the same settings give the same file."""
    digest = hashlib.sha256(json.dumps([model, facts], sort_keys=True).encode()).hexdigest()
    return f"{facts['seed']:06d}-{digest[:8]}.png"
