"""The processor by name, and memory that is kept between steps."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from core.device import processor

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


def test_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of the first one that Linux names; where it names none, nothing."""
    told = "cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC 9B45\n\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "read_text", lambda path: told)
    assert processor() == "AMD EPYC 9B45"
    assert processor("cpu family") == "26"
    assert processor("vendor") == ""

    def missing(path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert processor("cpu family") == ""
