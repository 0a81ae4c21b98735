"""What every trainer does around its loop, so that the loop itself stays visible.

    session = Session("vae", settings, image_set)
    session.start({"model": model, "optimiser": optimiser})   # resumes where a checkpoint is
    for step in session.steps():
        ...
        session.log(loss=loss)
    session.finish()

Ctrl-C ends the step in hand, writes a checkpoint and leaves; the same command goes on.
"""

import math
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator, PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    set_seed,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from core.config import leaves, to_dict
from core.device import device_name, keep_memory, peak_memory_mb
from core.errors import Interrupted, UserError
from core.parallel import PATIENCE, Agreement, check_launch, check_tracker, part_ways
from core.runs import ASIDE, Run, check_same_settings, checkpoints, put_aside, step_of
from core.seeds import seed_everything
from core.sets import ImageSet
from core.sharding import dealt, gathered, places
from core.state import load_state, not_finite, redraw, save_state
from core.zero import ZeroState, prepare_zero


class TrainerSettings(Protocol):
    """What `Session` needs of a trainer's settings."""

    @property
    def run_dir(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def checkpoints_kept(self) -> int: ...
    @property
    def tracker(self) -> str: ...


class Stateful(Protocol):
    """A model, an optimiser, a schedule, an average of weights."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> Any: ...


class Session:
    """Accelerator, run folder, resume, progress, logs and checkpoints of one training run."""

    LOG_EVERY = 10  # steps between reads of the losses from the device

    def __init__(
        self,
        family: str,
        settings: TrainerSettings,
        image_set: ImageSet,
        accumulate: int = 1,
        advice: str = "",
        in_parts: bool = False,
        clip_norm: float = 0.0,
    ) -> None:
        """Raises UserError for what cannot be done, before anything is written.

        Args:
            advice: what to do about losses that are not finite, besides learning more slowly.
            in_parts: whether these weights and their moments can be held in parts.
            clip_norm: of the gradient, for DeepSpeed, which clips by itself; 0: no limit.
        """
        check_launch(in_parts)
        run = Path(settings.run_dir)
        check_same_settings(run, family, settings, image_set.identity if run.exists() else None)
        check_tracker(settings.tracker)
        self.accelerator = Accelerator(
            log_with=None if settings.tracker == "none" else settings.tracker,
            project_dir=settings.run_dir,
            gradient_accumulation_plugin=GradientAccumulationPlugin(accumulate),  # not a variable's
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.precision = self.accelerator.mixed_precision
        self.zero = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if self.precision == "fp16" and not (self.accelerator.native_amp or self.zero):
            raise UserError("fp16 needs a GPU; launch with --mixed_precision bf16, or no.")
        if self.zero:
            prepare_zero(self.accelerator, clip_norm)
        self.family = family
        self.settings = settings
        slower = "try a lower learning rate"
        self.advice = advice or (slower if self.precision == "no" else f"{slower} or fp32")
        self.image_set = image_set
        self.main = self.accelerator.is_main_process
        if self.accelerator.device.type == "cpu":
            for state in (PartialState(), self.accelerator.state):
                state.device = torch.device("cpu")  # not "cpu:1": each move there is a copy
            keep_memory()
        self.device = self.accelerator.device
        self.run = Run(run, self.main)
        self.accelerator.wait_for_everyone()  # all have looked at the folder before one writes
        self.step = 0
        """Steps done."""
        self._state: Mapping[str, Stateful] = {}
        self._beware: list[str] = []
        self._waiting: list[tuple[int, float, dict[str, torch.Tensor | float]]] = []
        self._newest: dict[str, float] = {}
        self._asked = False
        self._agreement = Agreement(self.accelerator)
        self._seconds_before = 0.0
        self._began = time.monotonic()
        set_seed(settings.seed % 2**32)  # of Python, NumPy and torch, as far as they are used

    # -- before the loop

    def start(
        self, state: Mapping[str, Stateful], beware: Sequence[str] = (), **facts: Any
    ) -> None:
        """Open the run folder and load the newest whole checkpoint into `state`, if there is one.

        Args:
            beware: what a person should know, to be said now and kept among the warnings.
            facts: go to run.json (parameter counts and the like).
        """
        self._state = state
        self._beware = [f"Beware: {line}." for line in beware]
        self.run.open(
            self.family,
            self.settings,
            {
                "data": self.image_set.name,
                "data_fingerprint": self.image_set.fingerprint,
                "data_identity": self.image_set.identity,
                "data_images": len(self.image_set),
                "mode": self.image_set.mode,
                "device": device_name(self.device),
                "precision": self.precision,
                "processes": self.accelerator.num_processes,
                "distributed": self.accelerator.distributed_type.value,
                "seed": self.settings.seed,
                **facts,
            },
        )
        self.warn(self.run.info.get("warnings", []))
        self.accelerator.wait_for_everyone()
        with self.accelerator.main_process_first():  # which puts aside what cannot be read
            saved, tree = self._load_newest()
        if saved is not None:
            for name, item in state.items():
                bare = self._bare(item)
                parts = self.accelerator.is_fsdp2
                bare.load_state_dict(dealt(tree[name], places(bare)) if parts else tree[name])
            if self.accelerator.scaler is not None and "scaler" in tree:
                self.accelerator.scaler.load_state_dict(tree["scaler"])
            self.step = step_of(saved)
            self._seconds_before = tree["seconds"]
            self.say(f"Going on from step {self.step} of {self.run.path}.")
            for item in state.values():
                if isinstance(item, LambdaLR) and (jump := redraw(item)):
                    self.say(f"{jump}, over {self.settings.steps} steps.")
        if self.run.put_aside_after(self.step):
            since = f"after step {self.step}" if self.step else "before it was begun anew"
            self.say(f"Weights that were kept {since} are in {self.run.path}/{ASIDE}.")
        self.run.rewind_metrics(self.step)
        self.accelerator.init_trackers(
            "osteon", config={k: str(v) for k, v in leaves(to_dict(self.settings)).items()}
        )
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line once, above the progress bar, and keep it in log.txt."""
        if self.main:
            tqdm.write(line, file=sys.stderr)
            if self.run.path.exists():
                self.run.write_log(line)

    def warn(self, lines: list[str]) -> None:
        """What a person should know of the run's health, besides how it was changed on the way and
        what `start` was told: kept in run.json, said when it is new."""
        changes, before = (self.run.info.get(name, []) for name in ("changes", "warnings"))
        stays = [*changes, *self._beware]
        lines = [*stays, *(line for line in lines if line not in stays)]
        if lines != before:
            for line in lines:
                if line not in before:
                    self.say(line)
            self.run.update(warnings=lines)

    # -- the loop

    def steps(self, images_per_step: int) -> Iterator[int]:
        """Yield the numbers of the steps left, from 0; between them log, save, and heed Ctrl-C.

        Every step starts with torch's global generators seeded by its number.
        """
        old_handlers = self._catch_signals()
        bar = tqdm(
            total=self.settings.steps,
            initial=self.step,
            disable=not self.main,
            desc=self.run.path.name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )
        first, began = self.step, time.monotonic()
        try:
            while self.step < self.settings.steps:
                seed_everything(
                    self.settings.seed, "step", self.step, self.accelerator.process_index
                )
                yield self.step
                self.step += 1
                bar.update()
                logs = self.due(self.LOG_EVERY)
                stop = self._agreement.to_stop(self._asked, self.step, logs)
                if stop or logs:
                    rate = (self.step - first) * images_per_step / (time.monotonic() - began)
                    self.flush()
                    shown = " ".join(f"{name} {value:.3g}" for name, value in self._newest.items())
                    bar.set_postfix_str(f"{shown} {rate:.1f} images/s")
                if stop or self.due(self.settings.checkpoint_every):
                    self._save()
                elif self.step == self.settings.steps:
                    self.check_finite(self.step)
                if stop and self.step < self.settings.steps:
                    self._leave("stopped")
                    raise Interrupted(
                        f"Stopped at step {self.step} of {self.settings.steps}, saved in "
                        f"{self.run.path}. The same command goes on."
                    )
        except Interrupted:
            raise
        except BaseException:
            self._leave("failed")
            raise
        finally:
            bar.close()
            for number, handler in old_handlers.items():
                signal.signal(number, handler)

    def log(self, **values: torch.Tensor | float) -> None:
        """Note values of the step in hand; tensors stay on the device until the next flush."""
        seconds = self.seconds
        kept = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        self._waiting.append((self.step + 1, seconds, kept))

    def flush(self) -> None:
        """Move waiting values off the device in one go, write them, refuse what is not finite.

        Done every LOG_EVERY steps; call it before reading metrics.jsonl.
        """
        names = sorted({name for _, _, values in self._waiting for name in values})
        for step, seconds, values in self._waiting:
            tensors = [v.float().reshape(()) for v in values.values() if torch.is_tensor(v)]
            numbers = iter(torch.stack(tensors).tolist() if tensors else [])
            row = {k: next(numbers) if torch.is_tensor(v) else float(v) for k, v in values.items()}
            self.run.log(step, seconds, **row)
            self.accelerator.log(row, step=step)
            self._newest = row
            if bad := [name for name in names if not math.isfinite(row.get(name, 0.0))]:
                self._refuse(bad[0], step)
        self._waiting.clear()

    def check_finite(self, step: int) -> None:
        """Refuse losses that wait and trained weights, those after `step`, that are not finite.

        Done before a checkpoint and at the end; call it, in all processes, before others are kept.
        """
        self.flush()
        if name := not_finite(self._states(without=Optimizer)):
            self._refuse(name, step)

    def due(self, every: int) -> bool:
        """Whether the steps done are a multiple of `every` (0: never) or all there are."""
        return every > 0 and (self.step % every == 0 or self.step == self.settings.steps)

    def due_after(self, every: int) -> bool:
        """`due`, asked inside the loop for the moment after the step in hand."""
        done = self.step + 1
        return every > 0 and (done % every == 0 or done == self.settings.steps)

    @property
    def seconds(self) -> float:
        """Of training, over all the times the run was taken up."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def peak_memory_mb(self) -> int:
        """Of the main process, the most over all the times the run was taken up."""
        return max(self.run.info.get("peak_memory_mb", 0), peak_memory_mb(self.device))

    # -- after the loop

    def finish(self, next_command: str = "", last: bool = True, **facts: Any) -> None:
        """Record the cost, mark the run finished, say what is next.

        `last`: close trackers and processes; no other session follows in this program.
        """
        done = {"status": "finished", "steps": self.step, "seconds": round(self.seconds, 2)}
        self.run.update(**{"peak_memory_mb": self.peak_memory_mb} | facts | done)
        if not self.settings.checkpoint_every:  # one that an interruption left is not the last
            self.run.drop_checkpoints()
        self._leave("finished")
        if last:
            part_ways(self.accelerator)
        self.say(f"Trained {self.run.path} to step {self.step} in {self.seconds:.0f} s.")
        path = shlex.quote(str(self.run.path))
        self.say(f"Next: {next_command or f'osteon generate --run {path} --seeds 0-15'}")

    # -- inside

    def _load_newest(self) -> tuple[Path | None, Any]:
        """The newest checkpoint that can be read, and what it holds. Raises UserError where there
        are some, and none can be read."""
        saved = checkpoints(self.run.path)
        while saved:
            try:
                return saved[-1], load_state(saved[-1])
            except UserError:
                damaged = saved.pop()
                if not (saved and self.main):
                    raise
                aside = put_aside(damaged)
                self.say(f"{damaged} cannot be read; it is now {aside.name}, and does not count.")
        return None, None

    def _refuse(self, what: str, step: int) -> NoReturn:
        """Raise UserError for what is not finite. Other settings than a run's are not taken up."""
        self._leave("failed")
        kept = checkpoints(self.run.path)
        left = (
            f"The last good checkpoint is {kept[-1]}" if kept else "No checkpoint had been written"
        )
        remedy = f"with another --run_dir {self.advice}"
        raise UserError(f"{what} is not finite at step {step}. {left}; {remedy}.")

    def _save(self) -> None:
        self.check_finite(self.step)
        self.accelerator.wait_for_everyone()
        tree = self._states()
        if self.main:
            tree["seconds"] = self.seconds
            if self.accelerator.scaler is not None:
                tree["scaler"] = self.accelerator.scaler.state_dict()
            with self.run.checkpoint(self.step, self.settings.checkpoints_kept) as folder:
                save_state(tree, folder)
        self.accelerator.wait_for_everyone()

    def _states(self, without: Any = ()) -> dict[str, Any]:
        """What a checkpoint holds, or a part of it; whole in all processes, which must all ask."""
        items = {n: item for n, item in self._state.items() if not isinstance(item, without)}
        return gathered({name: self._bare(item).state_dict() for name, item in items.items()})

    def _bare(self, item: Any) -> Any:
        if isinstance(item, torch.nn.Module):
            return self.accelerator.unwrap_model(item)
        if not isinstance(item, AcceleratedOptimizer):
            return item
        return ZeroState(item.optimizer) if self.zero else item.optimizer

    def _catch_signals(self) -> dict[int, Any]:
        def ask_to_stop(number: int, frame: Any) -> None:
            if self._asked:  # twice: leave at once
                raise KeyboardInterrupt
            self._asked = True
            alone = self.accelerator.num_processes == 1
            where = "after this step" if alone else "at the next common step"
            self.say(f"Stopping {where} (Ctrl-C again leaves at once).")

        try:
            return {n: signal.signal(n, ask_to_stop) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: somebody else's signals
            return {}

    def _leave(self, status: str) -> None:
        if status != "finished":  # whose cost is recorded
            self.run.update(peak_memory_mb=self.peak_memory_mb)
        self.run.close(status, self.seconds)
