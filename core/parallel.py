"""Several processes, one batch: each takes its part, and the gradients are added up by hand.

`DistributedDataParallel` is not used where a loss holds a gradient (the penalty of WGAN-GP): its
hooks follow one backward pass through one forward pass of the wrapped module, and the inner
gradient of a double backward would be neither averaged nor counted right. Plain modules and one
all-reduce are exact, for uneven and even empty parts too.
"""

import importlib.util
import math
import os
import time
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn

from core.device import pick_device
from core.errors import UserError

PATIENCE = timedelta(hours=2)
"""Of processes that wait while one alone fetches a base or draws; NCCL's own are ten minutes."""


def process_state() -> PartialState:
    """Which process this is, of how many. Unlike Accelerator, a bare PartialState does not heed
    ACCELERATE_USE_CPU, and under torchrun without a GPU would count itself alone."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)


def process_device(wanted: str | None = None) -> str:
    """`wanted`; without, one among several processes works on its own device, one alone on the
    best at hand. Raises UserError for a device that is not at hand."""
    state = process_state()
    return pick_device(wanted or (str(state.device) if state.num_processes > 1 else None))


PRECISIONS = ("no", "fp16", "bf16")


def check_launch(in_parts: bool) -> None:
    """Raise UserError for a way of `accelerate launch` that this training has not."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in PRECISIONS:
        raise UserError(f"Of mixed precision there are {', '.join(PRECISIONS)}, not {precision}.")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "").upper() not in ("", "NO"):
        raise UserError(
            "accelerate's dynamo is not for these trainers, as checkpoints would hold other names; "
            "launch with --dynamo_backend no: --compile true compiles where a trainer can be."
        )
    fsdp, zero = (parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))
    if (fsdp or zero) and not in_parts:
        raise UserError(
            "FSDP and DeepSpeed are for dreambooth, every weight trained (lora: null) by adamw; "
            "launch with configs/accelerate/multi_gpu.yaml."
        )
    if fsdp and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("Of FSDP there is version 2; see configs/accelerate/fsdp.yaml.")
    if zero and importlib.util.find_spec("deepspeed") is None:
        raise UserError('DeepSpeed is not installed; pip install -e ".[deepspeed]"')


def check_tracker(name: str) -> None:
    """Raise UserError for a tracker that is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f'The tracker {name} is not installed; pip install -e ".[{name}]"')


def part_of(items: Any, accelerator: Accelerator) -> Any:
    """This process's contiguous part of a global batch (tensor, array or list); it may be empty."""
    rank, world = accelerator.process_index, accelerator.num_processes
    return items[len(items) * rank // world : len(items) * (rank + 1) // world]


def check_share(name: str, batch: int, processes: int, pieces: int = 1) -> None:
    """Raise UserError unless a batch can be shared out evenly.

    Args:
        name: of the setting.
        pieces: into which each process cuts its part.
    """
    if batch % (processes * pieces):
        cut = f" in {pieces} pieces each" if pieces > 1 else ""
        raise UserError(
            f"{name} {batch} cannot be shared by {processes} processes{cut}; make it a multiple "
            f"of {processes * pieces}."
        )


ASK_STEPS, ASK_SECONDS = 10, 2.0
"""Between two moments at which several processes ask each other whether to stop, at most."""


def steps_until_asked(seconds: float) -> int:
    """After how many steps of so many `seconds` it is time to ask again; a long one is enough."""
    return max(1, int(min(ASK_STEPS, ASK_SECONDS / max(seconds, 1e-9))))


class Agreement:
    """Several processes that stop at the same step, soon after one of them was asked to.

    To ask each other is to wait for the device. It is done every few steps, and all have to know
    at which: the first process times the steps and tells its time with each answer.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._step, self._began = 0, -math.inf  # of the last asking; at first no step is timed
        self._next = 0
        """The step at which they ask again."""

    def to_stop(self, asked: bool, step: int, due: bool) -> bool:
        """Whether all stop here, after `step`.

        Args:
            asked: of this process.
            due: ask in any case, as the device is waited for here anyway. Alike in all processes.
        """
        if self.accelerator.num_processes == 1:
            return asked
        if not (due or step >= self._next):
            return False
        # From one asking's beginning to the next's, for a GPU's work ends within the asking
        now = time.monotonic()
        seconds = (now - self._began) / max(1, step - self._step)
        self._step, self._began = step, now
        told = [float(asked), seconds if self.accelerator.is_main_process else 0.0]
        total: Any = self.accelerator.reduce(torch.tensor(told, device=self.accelerator.device))
        stop, seconds = total.tolist()
        self._next = step + steps_until_asked(seconds)
        return stop > 0


def part_ways(accelerator: Accelerator) -> None:
    """Close trackers and leave the group of processes, after the last word between them.

    Gloo's threads drop the tensors of that word when they next get Python's lock; where the
    interpreter has ended by then, they abort the process (pytorch/pytorch#179291).
    """
    if accelerator.num_processes > 1:
        time.sleep(0.1)  # without the lock
    accelerator.end_training()


@torch.no_grad()
def sum_gradients(
    module: nn.Module, values: torch.Tensor, accelerator: Accelerator
) -> torch.Tensor:
    """Replace the gradients of `module` by their sum over the processes, in one all-reduce.

    Each process weighs its loss by its share of the global batch, so the sum is the global mean. A
    process without images has no gradients: it adds zeros.

    Args:
        values: float32 vector of losses to log, weighed alike.

    Returns `values` summed over the processes.
    """
    if accelerator.num_processes == 1:
        return values
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    parts = [values, *(p.grad.flatten() for p in parameters if p.grad is not None)]
    total: Any = accelerator.reduce(torch.cat(parts), reduction="sum")
    summed = total.split([part.numel() for part in parts])
    for parameter, gradient in zip(parameters, summed[1:], strict=True):
        parameter.grad = gradient.view_as(parameter)
    return summed[0]
