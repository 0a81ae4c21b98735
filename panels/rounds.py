"""Rounds of the arena and the quiz: what is drawn by chance, and what was said of it."""

import json
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from PIL import Image

from core.errors import UserError
from core.images import fit, open_image
from core.sets import open_set
from panels import ballots
from panels.history import SETTINGS_KEY
from panels.thumbnails import data_uri
from panels.workbench import Workbench

CHANCE = 0.5
MOST_SIDE = 1024  # pixels; larger pictures are made smaller
MOST_OPEN = 1000  # rounds that wait for their answer
MOST_KEPT = 32  # folders whose samples are remembered
ANSWERS = ("real", "made")


class Sample(NamedTuple):
    """A picture, and what is known of how it was made."""

    file: Path
    seed: int | None
    prompt: str


class Pair(NamedTuple):
    """Two pictures to choose from."""

    left: Path
    right: Path
    prompt: str
    """Of both; "" where they share none."""

    def open(self) -> tuple[Image.Image, Image.Image]:
        """Both at one size, which must not tell them apart: that of the larger, square."""
        left, right = open_image(self.left), open_image(self.right)
        side = min(MOST_SIDE, max(min(left.size), min(right.size)))
        return fit(left, side), fit(right, side)


class Case(NamedTuple):
    """One picture of the quiz."""

    file: Path
    made: bool
    """By a model."""
    samples: str
    """The samples folder that the round is about."""
    side: int
    """Pixels at which it is shown, real or made."""

    def open(self) -> Image.Image:
        return fit(open_image(self.file), self.side)


@dataclass(frozen=True)
class Rounds:
    """Of one project. What cannot be raises UserError in words."""

    bench: Workbench
    waiting: dict[str, Any] = field(default_factory=dict)
    """Rounds that wait for their answer, by their id."""
    taking: threading.Lock = field(default_factory=threading.Lock)

    def sets(self) -> list[str]:
        """Folders of samples that runs made, and folders from outside."""
        made = [folder for folder in self.bench.root.glob("runs/*/samples/*") if folder.is_dir()]
        folders = [*sorted(made), *self.bench.outside()]
        return [folder.relative_to(self.bench.root).as_posix() for folder in folders]

    def related(self) -> list[str]:
        """Sets of samples by models trained on the same images; where none are, the first two."""
        names = self.sets()
        trained = {model.name: model.data for model in self.bench.models()}
        groups = defaultdict(list)
        for name in names:
            if data := trained.get("/".join(name.split("/")[:2])):
                groups[data].append(name)
        return next((group for group in groups.values() if len(group) > 1), names[:2])

    def pair(self, chosen: Sequence[str]) -> Pair:
        """Pictures of two of the sets, in an order drawn by chance."""
        names = [name for name in self.sets() if name in chosen]
        if len(names) < 2:
            raise UserError("Choose two sets of samples, or more.")
        duels = list(combinations(names, 2))
        for duel in random.sample(duels, len(duels)):
            first, second = random.sample(duel, 2)
            if both := draw(self._samples(first), self._samples(second)):
                left, right = both
                prompt = left.prompt if left.prompt == right.prompt else ""
                return Pair(left.file, right.file, prompt)
        raise UserError("Those sets share no prompt; draw them with the same `--prompts`.")

    def vote(self, pair: Pair, vote: str) -> dict[str, Any]:
        """Record what was preferred; the row tells whose pictures they were."""
        return ballots.record(
            self._file("arena"),
            left=self.name(pair.left),
            right=self.name(pair.right),
            left_file=pair.left.name,
            right_file=pair.right.name,
            prompt=pair.prompt,
            vote=vote,
        )

    def case(self, real: str | None, made: str | None) -> Case:
        """One picture, real or made with even chance."""
        if real not in self.bench.sets() or made not in self.sets():
            raise UserError("Choose real images, and pictures made by a model.")
        pictures = open_set(self.bench.root / made).paths
        side = min(MOST_SIDE, *open_image(pictures[0]).size)
        is_made = random.random() < CHANCE
        files = pictures if is_made else open_set(self.bench.root / real).paths
        return Case(random.choice(files), is_made, made, side)

    def answer(self, case: Case, answer: str) -> dict[str, Any]:
        """Record an answer; the row tells the truth."""
        row = {"set": case.samples, "file": case.file.name, "made": case.made, "answer": answer}
        return ballots.record(self._file("quiz"), **row)

    def votes(self) -> list[dict]:
        """All votes so far."""
        return ballots.read(self._file("arena"))

    def answers(self) -> list[dict]:
        """All answers of the quiz so far."""
        return ballots.read(self._file("quiz"))

    def name(self, picture: Path) -> str:
        """Of the set that a picture lies in."""
        return picture.parent.relative_to(self.bench.root).as_posix()

    def wait(self, asked: Pair | Case) -> str:
        """The id under which a round waits for its answer."""
        name = uuid4().hex
        with self.taking:
            self.waiting[name] = asked
            if len(self.waiting) > MOST_OPEN:
                self.waiting.pop(next(iter(self.waiting)))
        return name

    def take(self, name: str, kind: type) -> Any:
        """What waits under `name`: once, however often and fast it is asked for."""
        with self.taking:
            if not isinstance(self.waiting.get(name), kind):
                raise UserError("No such round waits; ask for another, and answer it once.")
            return self.waiting.pop(name)

    # -- for programs

    def new_pair(self, sets: list[str] | None = None) -> dict[str, str]:
        """Two pictures as data URIs (PNG), their prompt, and the id under which to /vote. Not blind
        for who reads the files: a made picture's text chunks say so. Show the pixels alone.
        Without `sets` of /samples: those that fit together."""
        pair = self.pair(sets or self.related())
        left, right = (data_uri(image, exact=True) for image in pair.open())
        return {"pair": self.wait(pair), "prompt": pair.prompt, "left": left, "right": right}

    def vote_on(self, pair: str, vote: str) -> dict[str, Any]:
        """Record "left", "right", "tie" or "bad" of a /new_pair; tells whose pictures they were."""
        if vote not in ballots.VOTES:
            raise UserError(f"A vote is one of {', '.join(ballots.VOTES)}, not '{vote}'.")
        return self.vote(self.take(pair, Pair), vote)

    def new_case(self, real: str, made: str) -> dict[str, str]:
        """A picture of the set `real` or of the samples `made`, and the id under which to /answer.
        Not blind for who reads the file: a made picture's text chunks say so. Show the pixels
        alone."""
        case = self.case(real, made)
        return {"case": self.wait(case), "image": data_uri(case.open(), exact=True)}

    def answer_to(self, case: str, answer: str) -> dict[str, Any]:
        """Record "real" or "made" of a /quiz; tells the truth."""
        if answer not in ANSWERS:
            raise UserError(f"An answer is {' or '.join(ANSWERS)}, not '{answer}'.")
        return self.answer(self.take(case, Case), answer)

    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """Shares preferred in the arena and told apart in the quiz, with 95 % intervals.
        By chance both are 0.5, in the arena less where both were bad."""
        found = {
            "arena": ballots.preferred(self.votes()),
            "quiz": ballots.told_apart(self.answers()),
        }
        return {
            game: {name: share.facts for name, share in shares.items()}
            for game, shares in found.items()
        }

    def _samples(self, name: str) -> tuple[Sample, ...]:
        folder = self.bench.root / name
        places = [place for place in (folder, folder / "samples.jsonl") if place.exists()]
        return _read_samples(folder, *(place.stat().st_mtime_ns for place in places))

    def _file(self, name: str) -> Path:
        return self.bench.root / "reports" / "votes" / f"{name}.jsonl"


@lru_cache(maxsize=MOST_KEPT)
def _read_samples(folder: Path, *changed: int) -> tuple[Sample, ...]:
    """Of a folder as it was at `changed` (ns): every header is too much to read for each pair."""
    images = open_set(folder)
    known = (
        row if "seed" in row else _carried(path)
        for path, row in zip(images.paths, images.rows, strict=True)
    )
    return tuple(
        Sample(path, facts.get("seed"), str(facts.get("prompt") or ""))
        for path, facts in zip(images.paths, known, strict=True)
    )


def draw(first: Sequence[Sample], second: Sequence[Sample]) -> tuple[Sample, Sample] | None:
    """One picture of each by chance: of one seed and prompt, or of one prompt; where a set knows no
    prompts, of one file name, or any two. None for sets of other prompts."""
    second = random.sample(second, len(second))
    prompted = all(any(sample.prompt for sample in part) for part in (first, second))
    for key in (_seed_and_prompt, _prompt if prompted else _file_name):
        partners = {key(sample): sample for sample in second if key(sample)}
        shared = [(one, partners[key(one)]) for one in first if key(one) in partners]
        if shared:
            return random.choice(shared)
    return None if prompted else (random.choice(first), second[0])


def _seed_and_prompt(sample: Sample) -> tuple[int, str] | None:
    return None if sample.seed is None else (sample.seed, sample.prompt)


def _prompt(sample: Sample) -> str:
    return sample.prompt


def _file_name(sample: Sample) -> str:
    return sample.file.name


def _carried(file: Path) -> dict[str, Any]:
    """What a PNG of ours says of itself, without decoding it; {} for another."""
    try:
        with Image.open(file) as image:
            facts = json.loads(image.info.get(SETTINGS_KEY, "{}"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
