"""Memory that is kept between steps."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another memory than glibc's")
def test_what_is_freed_is_kept_for_the_next_step() -> None:
    """Page faults of tensors of 1 to 30 MB, one after the other, each larger than any before: of
    all that they hold, or of the largest."""
    script = """
import resource, sys, torch
from core.device import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for megabytes in range(1, 31):
    torch.ones(megabytes * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = [
        int(subprocess.check_output([sys.executable, "-c", script, way], cwd=ROOT))
        for way in ("given back", "kept")
    ]
    assert faults[1] < faults[0] / 5
