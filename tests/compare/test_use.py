from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from compare.sources import open_fakes, open_real
from compare.use import measure_classifier, train_classifier, use
from core.files import read_jsonl, write_jsonl


def test_every_way_of_training_is_measured(
    make_set: Callable[..., Path], make_run: Callable[..., Path]
) -> None:
    folder = make_set()
    for file in folder.glob("*/metadata.jsonl"):
        rows = read_jsonl(file)
        write_jsonl(file, [row | {"findings": row["findings"] or ["No Finding"]} for row in rows])
    real = open_real(str(folder))
    asked = make_run("asked", 24, prompts=["chest X-ray, mass", "chest X-ray, no finding"])
    fakes = open_fakes([str(asked), str(make_run("silent", 8))])
    found = use(real, fakes, 1, "cpu", 0)
    assert found["attributes"] == ["findings=Mass", "findings=No Finding"]
    assert [(row["kind"], row["images"]) for row in found["rows"]] == [
        ("real", 30),
        ("fake", 24),
        ("both", 54),
        ("control", 54),
    ]
    assert all(0 <= row["auroc"]["value"] <= 1 for row in found["rows"])
    assert use(real, fakes[1:], 1, "cpu", 0) is None  # asked for nothing


def test_a_classifier_learns_and_is_measured_by_patient() -> None:
    labels = (np.arange(64) % 2).astype(np.float32)[:, None]
    pixels = torch.full((64, 3, 64, 64), 60, dtype=torch.uint8)
    pixels[1::2, :, 16:48, 16:48] = 220
    network = train_classifier(pixels, labels, ("findings=Mass",), 8, 0)
    scores = measure_classifier(network, pixels, labels, [i // 2 for i in range(64)], 0)
    assert scores["auroc"]["value"] > 0.95
    for name in ("sensitivity", "specificity"):
        assert 0 <= scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"] <= 1
