"""Votes and answers as JSON lines that `osteon compare` can read, and what they amount to.

reports/votes/arena.jsonl    time, left, right (samples folders), left_file, right_file,
                             prompt ("" where they shared none), vote
reports/votes/quiz.jsonl     time, set (samples folder), file, made (true: by a model), answer
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.files import read_jsonl
from core.provenance import now

VOTES = {"left": "Left", "right": "Right", "tie": "Tie", "bad": "Both bad"}
NORMAL_95 = 1.959964


class Share(NamedTuple):
    """Of `count` cases, those that were so, with a 95 % interval (Wilson 1927)."""

    hits: float
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        if not self.count:
            return 0.0, 1.0
        share, square = self.hits / self.count, NORMAL_95**2 / self.count
        middle = (share + square / 2) / (1 + square)
        spread = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
        return middle - spread, middle + spread

    @property
    def facts(self) -> dict[str, float]:
        low, high = self.interval
        return {"share": self.hits / self.count, "low": low, "high": high, "count": self.count}

    @property
    def words(self) -> str:
        low, high = self.interval
        share = self.hits / self.count if self.count else float("nan")
        return f"{share:.0%} ({low:.0%} to {high:.0%}) of {self.count}"


def record(path: Path, /, **row: Any) -> dict[str, Any]:
    """Append one row with the time; returns it."""
    row = {"time": now(), **row}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return row


def read(file: Path) -> list[dict[str, Any]]:
    """All rows; none where nothing was recorded yet."""
    return read_jsonl(file) if file.exists() else []


def preferred(votes: Iterable[dict[str, Any]]) -> dict[str, Share]:
    """How often each set was preferred to what stood beside it; a tie counts half for both, "both
    bad" for neither. Best first."""
    hits: defaultdict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for row in votes:
        left, right, vote = row["left"], row["right"], row["vote"]
        count.update((left, right))
        hits[left] += {"left": 1.0, "tie": 0.5}.get(vote, 0.0)
        hits[right] += {"right": 1.0, "tie": 0.5}.get(vote, 0.0)
    shares = {name: Share(hits[name], count[name]) for name in count}
    return dict(sorted(shares.items(), key=lambda item: -item[1].hits / item[1].count))


def told_apart(answers: Sequence[dict[str, Any]]) -> dict[str, Share]:
    """How often people were right, for every set and for all real images of the rounds."""
    groups: dict[str, list[bool]] = {}
    for row in answers:
        name = row["set"] if row["made"] else "real images"
        groups.setdefault(name, []).append(row["answer"] == ("made" if row["made"] else "real"))
    return {name: Share(sum(right), len(right)) for name, right in groups.items()}
