"""Where the work is done: which device, by what name, and with how much memory."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from core.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def pick_device(wanted: str | None = None) -> str:
    """`wanted`, such as "cuda:1"; without, the best device at hand: "cuda", "mps" or "cpu".

    Raises UserError for a device that is not at hand.
    """
    if wanted is not None:
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError):  # AssertionError: this torch is built without it
            raise UserError(f"There is no device '{wanted}' here; {pick_device()} is.") from None
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_name(device: torch.device) -> str:
    """As a person knows it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def processor(field: str = "model name") -> str:
    """The CPU by the name of its maker, such as "AMD EPYC 9B45", or another field that Linux tells
    of it, such as "cpu family"; "" where it does not."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return ""


def peak_memory_mb(device: torch.device) -> int:
    """Peak memory of this process on the device (CUDA) or in RAM, in MB."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) // 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak // (2**20 if sys.platform == "darwin" else 2**10))


def keep_memory() -> None:
    """Let glibc keep what is freed for the next step, instead of giving it back to the system and
    having it zeroed again page by page: 7 % of a small UNet's step. Elsewhere nothing happens."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it takes
