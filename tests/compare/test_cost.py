"""What a model cost: read from its run folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compare.cost import describe
from compare.findings import health
from compare.report import training_curves
from compare.sources import open_fakes
from core.files import read_json, write_json


def test_what_a_trainer_warned_of_is_said(make_run: Callable[..., Path]) -> None:
    run = make_run("gan")
    file = run / "run.json"
    write_json(file, read_json(file) | {"warnings": ["Mode collapse? Look at previews/."]})
    facts = describe(open_fakes([str(run)])[0])
    assert health({"fakes": [facts]}) == ["While gan trained: Mode collapse? Look at previews/."]


def test_kept_weights_cost_what_they_took(make_run: Callable[..., Path]) -> None:
    run = make_run()  # 40 steps of 8 images in 12.5 s, a row every 0.25 s
    facts = describe(open_fakes([str(run)])[0])
    whole, curve = facts["cost"], facts["curves"]["loss"]
    assert (whole["steps"], whole["train_seconds"], curve["step"][-1]) == (40, 12.5, 40)

    file = run / "samples" / "default" / "settings.json"
    write_json(file, read_json(file) | {"weights": "10", "trained_steps": 10})
    facts = describe(open_fakes([str(run)])[0])
    early, curve = facts["cost"], facts["curves"]["loss"]
    assert (early["steps"], early["train_seconds"], curve["step"][-1]) == (10, 2.5, 10)
    assert early["images_per_second"] == pytest.approx(10 * 8 / 2.5)


def test_one_run_has_its_curves_once(make_run: Callable[..., Path]) -> None:
    """Those of its latest weights, of which the curves of earlier ones are the beginning."""
    run, other = make_run(), make_run("other")
    early = run / "samples" / "early"
    shutil.copytree(run / "samples" / "default", early)
    file = early / "settings.json"
    write_json(file, read_json(file) | {"weights": "10", "trained_steps": 10})
    fakes = open_fakes([f"10={early}", f"40={run}", f"other={other}"])
    drawn = training_curves([describe(fake) for fake in fakes])
    assert [*drawn] == ["10, 40", "other"]
    assert drawn["10, 40"]["loss"]["step"][-1] == 40
