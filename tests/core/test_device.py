"""The processor by name, and memory that is kept between steps."""

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import core.session
from core.device import processor
from core.files import read_json
from tests.core.toy import ToySettings, train

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


def test_the_highest_memory_of_all_sittings_is_kept(
    unbroken: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a trainer of any family, whether a sitting came to its end or not."""
    own = replace(unbroken, run_dir=str(tmp_path / "broken"), fail_at=3)
    monkeypatch.setattr(core.session, "peak_memory_mb", lambda device: 1473)
    with pytest.raises(RuntimeError, match="power cut"):
        train(own)
    config = tmp_path / "broken/config.yaml"
    config.write_text(config.read_text().replace("fail_at: 3", "fail_at: -1"))
    for memory, kept in [(1404, 1473), (1500, 1500)]:
        monkeypatch.setattr(core.session, "peak_memory_mb", lambda device, mb=memory: mb)
        train(replace(own, fail_at=-1, steps=memory // 100))
        assert read_json(tmp_path / "broken/run.json")["peak_memory_mb"] == kept
