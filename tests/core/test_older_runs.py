"""A run of an older version, whose settings know less, goes on with what it was."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.config import filled
from core.errors import UserError
from core.runs import check_same_inputs, check_same_settings


@dataclass(frozen=True)
class Group:
    rank: int = 8
    new: float = 0.5


@dataclass(frozen=True)
class Settings:
    data: str
    steps: int = 10
    new: tuple[int, int] = (1, 2)
    group: Group = field(default_factory=Group)
    perhaps: Group | None = None


def test_new_settings_take_their_defaults() -> None:
    old = {"data": "x", "steps": 5, "group": {"rank": 4}, "perhaps": {"rank": 2}}
    expected = old | {"new": [1, 2], "group": {"rank": 4, "new": 0.5}}
    assert filled(old, Settings) == expected


def test_an_older_run_goes_on_unless_a_new_setting_is_given(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"family": "toy"}))
    (tmp_path / "config.yaml").write_text("data: x\nsteps: 5\ngroup: {rank: 8}\nperhaps: null\n")
    check_same_settings(tmp_path, "toy", Settings("x"))
    with pytest.raises(UserError, match=r"new: \[1, 2\] -> \[3, 4\]"):
        check_same_settings(tmp_path, "toy", Settings("x", new=(3, 4)))
    with pytest.raises(UserError, match=r"group.new: 0.5 -> 0.1"):
        check_same_settings(tmp_path, "toy", Settings("x", group=Group(new=0.1)))


def test_an_older_run_may_not_know_its_inputs(tmp_path: Path) -> None:
    facts = {"data_fingerprint": "a", "captions_fingerprint": "b", "device": "cpu"}
    check_same_inputs(tmp_path / "new", facts)
    (tmp_path / "run.json").write_text(json.dumps({"data_fingerprint": "a", "device": "cuda"}))
    check_same_inputs(tmp_path, facts)
    check_same_inputs(tmp_path, {})
    (tmp_path / "run.json").write_text(json.dumps(dict.fromkeys(facts, "other")))
    with pytest.raises(UserError, match=r"The images and captions of .* have changed"):
        check_same_inputs(tmp_path, facts)
