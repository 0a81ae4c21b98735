from pathlib import Path

import numpy as np
import pytest

from compare.votes import bradley_terry, people, quiz, strengths
from core.errors import UserError
from core.files import write_jsonl


def test_two_sets_by_hand() -> None:
    # 3 against 1, and half a win more on both sides: odds 3.5 to 1.5
    found = bradley_terry(np.array([[0.0, 3.0], [1.0, 0.0]]))
    assert found[0] - found[1] == pytest.approx(np.log(3.5 / 1.5))
    assert found.sum() == pytest.approx(0)


def test_known_strengths_are_found_again() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([1.0, 0.0, -1.0])
    duels = []
    for _ in range(900):
        i, j = rng.choice(3, 2, replace=False)
        left = float(rng.random() < 1 / (1 + np.exp(truth[j] - truth[i])))
        duels.append((f"m{i}", f"m{j}", left, 1 - left))
    rows = strengths(duels, 0)
    assert [row["label"] for row in rows] == ["m0", "m1", "m2"]
    for row, value in zip(rows, truth, strict=True):
        assert row["low"] < 1 / (1 + np.exp(-value)) < row["high"]


def test_quiz_against_chance() -> None:
    said = [("a", "made", True)] * 19 + [("a", "real", True)] + [("real images", "real", False)] * 2
    rows = {row["label"]: row for row in quiz(said)}
    assert rows["a"]["right"] == 0.95
    assert rows["a"]["p"] < 0.001
    assert rows["real images"]["p"] == pytest.approx(0.5)


def test_files_of_the_app(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vote in the app"):
        people(tmp_path, {}, 0)
    a, b = tmp_path / "a", tmp_path / "b"
    sides = {"left": str(a), "right": str(b)}
    votes = [sides | {"vote": vote} for vote in ("left", "tie", "bad", "left")]
    votes.append({"left": str(a), "right": "elsewhere", "vote": "right"})
    write_jsonl(tmp_path / "arena.jsonl", votes)
    rows = [{"set": str(a), "made": True, "answer": "real"}, {"set": "x", "made": False}]
    rows[1]["answer"] = "real"
    write_jsonl(tmp_path / "quiz.jsonl", rows)
    found = people(tmp_path, {a.resolve(): "A", b.resolve(): "B"}, 0)
    assert [row["label"] for row in found["strength"]] == ["A", "B"]
    assert found["strength"][0]["votes"] == 3
    assert [row["label"] for row in found["quiz"]] == ["A", "real images"]
