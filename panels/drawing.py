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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from panels.catalogue import Model
from panels.resident import Resident

REPORT_EVERY = 0.1  # seconds between two reports of progress, at least
log = logging.getLogger("osteon.app")


@dataclass(frozen=True)
class Task:
    """One picture to make."""

    model: Model
    seed: int
    prompt: str
    """ "": the model's own prompts, seed s taking number s modulo their count."""
    options: dict[str, Any]
    """Settings of the call; those that the model's family does not know are left out."""


@dataclass(frozen=True)
class Progress:
    """Where the work stands."""

    place: int
    """Number of the task in hand, from 0."""
    words: str
    share: float = 0.0
    """Of this picture, 0 to 1."""

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
    """Seed, prompt, run, family and settings, as `osteon generate` writes them."""


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
            watch: dict[str, Any] = {}
            if "steps" in sampler.options:  # drawn step by step: it can be watched and stopped
                watch["on_step"] = self.watcher(place)
            (image,) = sampler([task.seed], [prompt], **options, **watch)
            settings = settings_of(model.folder, "fp32", sampler.options | options)
        facts = {"seed": task.seed, "prompt": prompt, **settings}
        path = self.folder / model.folder.name / _file_name(model.name, facts)
        write_sample(image, path, task.seed, prompt, settings)
        return Picture(place, model, path, facts)

    def watcher(self, place: int) -> Callable[[int, int, Any], None]:
        """To be called after each denoising step."""
        said = 0.0

        def on_step(step: int, total: int, latents: Any) -> None:
            nonlocal said
            if self.stop.is_set():
                raise _Stopped
            if time.monotonic() - said > REPORT_EVERY:
                said = time.monotonic()
                self.say(Progress(place, f"step {step} of {total}", step / total))

        return on_step


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
