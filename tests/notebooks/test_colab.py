"""The Colab notebook: every cell runs, on the embedded base, with a folder in Drive's place."""

import ast
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from core.runs import checkpoints, read_metrics
from tests.finetune.tiny import tiny_pipeline, write_images

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks/osteon_colab.ipynb"


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_the_notebook_is_clean_and_plain_python() -> None:
    found = cells()
    assert len(found) > 6
    for cell in found:
        ast.parse(cell)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    assert all(cell["id"] for cell in notebook["cells"])
    assert (ROOT / "configs/dreambooth/sinomacrops_lora.yaml").exists()
    assert "# @param" in found[0]


@pytest.mark.slow
def test_every_cell_runs_and_a_second_time_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "base")
    write_images(tmp_path / "pictures")
    (tmp_path / "drive").mkdir()
    with zipfile.ZipFile(tmp_path / "drive/pictures.zip", "w") as pictures:
        for file in sorted((tmp_path / "pictures").glob("*.png")):
            pictures.write(file, file.name)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OSTEON_DRIVE", str(tmp_path / "drive"))
    monkeypatch.setenv("OSTEON_WORK", str(tmp_path))
    run = tmp_path / "drive/runs/my-animal"
    for steps in (2, 3):
        names: dict[str, Any] = {}
        first, *others = cells()
        exec(first, names)
        names |= {"BASE": str(tmp_path / "base"), "SIZE": 32, "STEPS": steps, "SAVE_EVERY": 1}
        names["PRESET"] = "configs/dreambooth/species_lora_mini.yaml"  # without class images
        for cell in others:
            exec(cell, names)
        assert [row["step"] for row in read_metrics(run)] == list(range(1, steps + 1))
        assert checkpoints(run)
    for steps in (2, 3):
        assert len(list((run / f"samples/after-{steps}").glob("*.png"))) == 8
    assert os.environ["OSTEON_WORK"] == str(tmp_path)
