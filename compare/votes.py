"""What people said: votes on pairs (Bradley and Terry, 1952) and the real-or-made quiz.

Read from the JSON lines that the app writes: arena.jsonl with `left`, `right` (samples folders) and
`vote`; quiz.jsonl with `set`, `made` and `answer`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from compare.bootstrap import resample_counts
from core.errors import UserError
from core.files import read_jsonl

RESAMPLES = 400
POINTS = {"left": (1.0, 0.0), "right": (0.0, 1.0), "tie": (0.5, 0.5)}
"""What a vote gives the left and the right set; "both bad" gives nothing."""


def read_votes(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Votes on pairs, and answers of the quiz. Raises UserError if there is neither file."""
    files = [folder / name for name in ("arena.jsonl", "quiz.jsonl")]
    if not any(file.exists() for file in files):
        raise UserError(f"{folder} holds no arena.jsonl or quiz.jsonl; vote in the app first.")
    votes, answers = (read_jsonl(file) if file.exists() else [] for file in files)
    return votes, answers


def people(folder: Path, labels: Mapping[Path, str], seed: int) -> dict[str, Any]:
    """Strengths and quiz results of the sets in `labels` (resolved samples folder -> label).

    Raises UserError if the folder holds neither file.
    """
    votes, answers = read_votes(folder)

    def label(place: str) -> str | None:
        return labels.get(Path(place).resolve())

    duels = [
        (label(row["left"]), label(row["right"]), *POINTS[row["vote"]])
        for row in votes
        if row["vote"] in POINTS
    ]
    known = [duel for duel in duels if duel[0] and duel[1] and duel[0] != duel[1]]
    said = [
        (label(row["set"]) if row["made"] else "real images", row["answer"], row["made"])
        for row in answers
    ]
    return {"strength": strengths(known, seed), "quiz": quiz([row for row in said if row[0]])}


def strengths(duels: Sequence[tuple[Any, Any, float, float]], seed: int) -> list[dict[str, Any]]:
    """Bradley-Terry: the chance to be preferred to the average set, best first, with 95 %
    intervals over resampled votes.

    Args:
        duels: (left, right, points of left, points of right).
    """
    names = sorted({name for left, right, *_ in duels for name in (left, right)})
    if len(names) < 2:
        return []
    place = {name: number for number, name in enumerate(names)}
    left, right = (np.array([place[duel[side]] for duel in duels]) for side in (0, 1))
    points = np.array([duel[2:] for duel in duels])
    counts = resample_counts(range(len(duels)), RESAMPLES, seed, "votes")
    values = []
    for row in np.vstack([np.ones(len(duels), int), counts]):
        wins = np.zeros((len(names), len(names)))
        np.add.at(wins, (left, right), points[:, 0] * row)
        np.add.at(wins, (right, left), points[:, 1] * row)
        values.append(bradley_terry(wins))
    found = 1 / (1 + np.exp(-np.array(values)))
    low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    rows = [
        {
            "label": name,
            "preferred": float(found[0, i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "votes": int(((left == i) | (right == i)).sum()),
        }
        for i, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row["preferred"])


def bradley_terry(wins: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Log strengths, of mean 0, from wins[i, j] of i over j (ties half), by Hunter's MM steps.

    Half a win is added to each side of every pair that met, so that nobody is infinitely strong.
    """
    met = (wins + wins.T) > 0
    wins = wins + 0.5 * met
    games = wins + wins.T
    strength = np.ones(len(wins))
    for _ in range(rounds):
        share = games / (strength[:, None] + strength[None])
        strength = wins.sum(1).clip(min=1e-9) / share.sum(1).clip(min=1e-9)
        strength = strength / np.exp(np.log(strength).mean())
    return np.log(strength)


def quiz(said: Sequence[tuple[Any, str, bool]]) -> list[dict[str, Any]]:
    """Of each set: how often people were right, with an exact 95 % interval and the p-value of
    guessing. `said`: (set, "made" or "real", whether it was made)."""
    rows = []
    for name in dict.fromkeys(row[0] for row in said):
        mine = [row for row in said if row[0] == name]
        right = sum((answer == "made") == made for _, answer, made in mine)
        test = binomtest(right, len(mine), 0.5)
        low, high = test.proportion_ci(0.95)
        rows.append(
            {"label": name, "right": right / len(mine), "low": float(low), "high": float(high)}
            | {"p": float(test.pvalue), "answers": len(mine)}
        )
    return rows
