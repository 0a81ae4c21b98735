"""Faults of a set are found before they are learned."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.checkup import check_set
from core.doctor import main
from core.files import write_jsonl


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A set with one of each fault."""
    folder, random = tmp_path / "set", np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        rows = []
        for number in range(4):
            image = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image = image.resize((64, 64), Image.Resampling.BICUBIC)
            image.save(folder / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "text": f"{split} {number}",
                         "patient_id": f"{split}{number}"})  # fmt: skip
        if split == "train":
            Image.open(folder / "train/0.png").resize((48, 48)).save(folder / "train/1.png")
            Image.open(folder / "train/2.png").convert("L").save(folder / "train/2.png")
            (folder / "train/3.png").write_bytes(b"torn")
            rows[2]["text"] = "very " * 90
        if split == "test":
            Image.open(folder / "train/0.png").save(folder / "test/0.png")
            rows[1]["patient_id"] = "train1"
            rows[2]["text"] = ""
        write_jsonl(folder / split / "metadata.jsonl", rows)
    (folder / "set.json").write_text(json.dumps({"mode": "RGB"}))
    return folder


def test_every_fault_is_found(faulty: Path, capsys: pytest.CaptureFixture) -> None:
    rows = check_set(faulty)
    bad = [f"{what} ({remedy})" for fine, what, remedy in rows if not fine]
    wanted = (
        "grey and colour are mixed",
        "1 files cannot be read (3.png)",
        "longer than 75 tokens",
        "0.png = 1.png",
        "1 images have none",
        "1 patients in two splits",
        "photographs of train also in test",
    )
    for words in wanted:
        assert any(words in line for line in bad), words
    assert len(bad) == len(wanted)
    assert any("validation: 4 images" in what for fine, what, _ in rows if fine)
    main([str(faulty)])
    assert f"{len(wanted)} to mend." in capsys.readouterr().out


def test_a_plain_folder_is_looked_at_too(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(tmp_path / "a.png")
    rows = check_set(tmp_path)
    assert all(fine for fine, _, _ in rows)
    assert rows[0][1] == "images: 1 images, 64 to 64 px at the shorter side, grey"
