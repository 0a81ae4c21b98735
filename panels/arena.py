"""Arena and quiz: which of two pictures is better, and which is real, without knowing whose it is.

Pictures go into the page as data: no file name tells where they come from.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from core.errors import UserError
from core.images import fit, list_images, open_image
from core.sets import open_set
from panels import ballots, fields, look
from panels.thumbnails import img
from panels.workbench import Workbench

SIDE = 320  # pixels of a picture
CHANCE = 0.5
ASK = "Press New pair to begin."


class Pair(NamedTuple):
    """What stands on the page, unknown to the visitor."""

    left: Path
    right: Path


class Case(NamedTuple):
    """One picture of the quiz."""

    file: Path
    made: bool
    """By a model."""
    samples: str
    """The samples folder that the round is about."""


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    arena = Arena(bench)
    sets = arena.sets()
    notice = gr.HTML(_none_yet(), visible=len(sets) < 1)
    with gr.Accordion("Arena: which is better?", open=True):
        chosen = gr.Dropdown(
            sets,
            value=sets[:4],
            multiselect=True,
            label="Sets of samples that compete",
            info="Two are drawn each time, and a seed that both have.",
        )
        view = gr.HTML(look.note(ASK))
        with gr.Row():
            votes = {vote: gr.Button(words, min_width=90) for vote, words in ballots.VOTES.items()}
            skip = gr.Button("New pair", variant="primary", min_width=90)
        tally = gr.HTML(arena.tally())
        pair = gr.State(None)
    with gr.Accordion("Quiz: real or made?", open=False):
        with gr.Row():
            real = gr.Dropdown(bench.sets(), label="Real images of", min_width=200)
            made = gr.Dropdown(sets, label="Pictures made by", min_width=200)
        asked = gr.HTML(look.note("Press Next to begin."))
        with gr.Row():
            says_real = gr.Button("Real", min_width=90)
            says_made = gr.Button("Made", min_width=90)
            after = gr.Button("Next", variant="primary", min_width=90)
        score = gr.HTML(arena.score())
        case = gr.State(None)

    skip.click(arena.pair, chosen, [view, pair], **fields.QUIET)
    for vote, button in votes.items():
        button.click(
            lambda pair, vote=vote: arena.vote(pair, vote),
            pair,
            [view, pair, tally],
            **fields.QUIET,
        ).then(arena.next_pair, [chosen, view, pair], [view, pair], **fields.QUIET)
    after.click(arena.case, [real, made], [asked, case], **fields.QUIET)
    for answer, button in {"real": says_real, "made": says_made}.items():
        button.click(
            lambda case, answer=answer: arena.answer(case, answer),
            case,
            [asked, case, score],
            **fields.QUIET,
        )
    page.load(arena.refresh, None, [notice, chosen, real, made], **fields.QUIET)
    gr.api(arena.votes, api_name="votes")
    gr.api(arena.answers, api_name="answers")


@dataclass(frozen=True)
class Arena:
    """What the tab's events do."""

    bench: Workbench

    def sets(self) -> list[str]:
        """Folders of samples that runs made, and folders from outside."""
        made = [folder for folder in self.bench.root.glob("runs/*/samples/*") if folder.is_dir()]
        folders = [*sorted(made), *self.bench.outside()]
        return [folder.relative_to(self.bench.root).as_posix() for folder in folders]

    def votes(self) -> list[dict]:
        """All votes so far."""
        return ballots.read(self._file("arena"))

    def answers(self) -> list[dict]:
        """All answers of the quiz so far."""
        return ballots.read(self._file("quiz"))

    def pair(self, chosen: list[str]) -> tuple[str, Pair | None]:
        """Two pictures of one seed, in an order drawn by chance."""
        try:
            names = [name for name in chosen or [] if name in self.sets()]
            if len(names) < 2:
                raise UserError("Choose two sets of samples, or more.")
            first, second = (self._pictures(name) for name in random.sample(names, 2))
            shared = sorted(first.keys() & second.keys())
            if not shared:
                raise UserError("Those sets share no file name, that is, no seed.")
            name = random.choice(shared)
        except UserError as error:
            return look.problem(str(error)), None
        pair = Pair(first[name], second[name])
        return _row(_picture(pair.left, "Left"), _picture(pair.right, "Right")), pair

    def vote(self, pair: Pair | None, vote: str) -> tuple[Any, None, Any]:
        """Record what was preferred, and say whose pictures they were."""
        if pair is None:
            return look.note(ASK), None, gr.skip()
        left, right = (self._name(file.parent) for file in pair)
        ballots.record(
            self._file("arena"),
            left=left,
            right=right,
            left_file=pair.left.name,
            right_file=pair.right.name,
            vote=vote,
        )
        return gr.skip(), None, look.note(f"Left was {left}, right {right}.") + self.tally()

    def next_pair(self, chosen: list[str], view: str, pair: Pair | None) -> tuple[Any, Any]:
        """After a vote the next pair, unless none was on the page."""
        return (gr.skip(), pair) if look.note(ASK) == view else self.pair(chosen)

    def tally(self) -> str:
        """The votes so far, as a table."""
        shares = ballots.preferred(self.votes())
        return _table("Preferred to what stood beside it", shares) if shares else ""

    def case(self, real: str | None, made: str | None) -> tuple[str, Case | None]:
        """One picture, real or made with even chance."""
        try:
            if real not in self.bench.sets() or made not in self.sets():
                raise UserError("Choose real images, and pictures made by a model.")
            pictures = list(self._pictures(made).values())
            is_made = random.random() < CHANCE
            if not pictures:
                raise UserError(f"{made} holds no pictures.")
            files = pictures if is_made else open_set(self.bench.root / real).paths
        except UserError as error:
            return look.problem(str(error)), None
        case = Case(random.choice(files), is_made, made)
        side = min(open_image(pictures[0]).size)  # sizes must not tell
        return _row(_picture(case.file, "Real or made?", side)), case

    def answer(self, case: Case | None, answer: str) -> tuple[str, None, Any]:
        """Record an answer, and tell the truth."""
        if case is None:
            return look.note("Press Next for a picture."), None, gr.skip()
        row = {"set": case.samples, "file": case.file.name, "made": case.made, "answer": answer}
        ballots.record(self._file("quiz"), **row)
        truth = f"made, by {case.samples}" if case.made else "real"
        right = "Right" if (answer == "made") == case.made else "Wrong"
        words = look.note(f"{right}: it was {truth}. Press Next for another.")
        return _row(_picture(case.file, f"It was {truth}")) + words, None, self.score()

    def score(self) -> str:
        """The quiz so far: 50 % is what guessing gives."""
        shares = ballots.told_apart(self.answers())
        if not shares:
            return ""
        hits, count = sum(s.hits for s in shares.values()), sum(s.count for s in shares.values())
        return _table(
            "Told apart (guessing gives 50%)", {"all rounds": ballots.Share(hits, count)} | shares
        )

    def refresh(self) -> list[Any]:
        sets = self.sets()
        choices = gr.update(choices=sets)
        first = gr.update(choices=sets, value=sets[:4])
        real = self.bench.sets()
        return [
            gr.update(visible=not sets),
            first,
            gr.update(choices=real, value=next(iter(real), None)),
            choices | {"value": next(iter(sets), None)},
        ]

    def _pictures(self, name: str) -> dict[str, Path]:
        return {file.name: file for file in list_images(self.bench.root / name)}

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.bench.root).as_posix()

    def _file(self, name: str) -> Path:
        return self.bench.root / "reports" / "votes" / f"{name}.jsonl"


def _row(*figures: str) -> str:
    return f'<div class="osteon-figures osteon-arena">{"".join(figures)}</div>'


def _picture(file: Path, alt: str, side: int | None = None) -> str:
    image = open_image(file)
    image = fit(image, side) if side else image
    return f"<figure>{img(image, alt, SIDE)}<figcaption>{escape(alt)}</figcaption></figure>"


def _table(title: str, shares: Mapping[str, ballots.Share]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(share.words)}</td></tr>'
        for name, share in shares.items()
    )
    return (
        f'<div class="osteon-facts"><p>{escape(title)}, with 95 % intervals:</p>'
        f"<table>{rows}</table></div>"
    )


def _none_yet() -> str:
    return look.empty(
        "There are no samples yet",
        "Votes are on pictures that models have drawn. In a terminal, then reload this page:",
        {"osteon generate --run runs/NAME --seeds 0-99": "For each of two models:"},
    )
