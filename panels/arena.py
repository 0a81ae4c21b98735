"""Arena and quiz: which of two pictures is better, and which is real, without knowing whose it is.

Pictures go into the page as data: no file name tells where they come from, and before the answer
nothing but pixels is in them. The page holds each round's id alone, and an id is answered once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from core.errors import UserError
from panels import ballots, fields, look
from panels.catalogue import of_radiographs
from panels.endpoints import endpoint
from panels.rounds import Case, Pair, Rounds
from panels.thumbnails import img, unmarked
from panels.workbench import Workbench

ASK = "Press New pair to begin."


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    rounds = Rounds(bench)
    arena = Arena(rounds)
    sets = rounds.sets()
    notice = gr.HTML(_none_yet(), visible=len(sets) < 1)
    with gr.Accordion("Arena: which is better?", open=True):
        chosen = gr.Dropdown(
            sets,
            value=rounds.related(),
            multiselect=True,
            label="Sets of samples that compete",
            info="Two are drawn each time, and a seed and prompt that both have.",
        )
        view = gr.HTML(look.note(ASK))
        with gr.Row():
            votes = {vote: gr.Button(words, min_width=90) for vote, words in ballots.VOTES.items()}
            skip = gr.Button("New pair", variant="primary", min_width=90)
        tally = gr.HTML(arena.tally())
        pair = gr.Textbox(visible=False)  # not a State: the id of what stood there at the click
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
        case = gr.Textbox(visible=False)

    skip.click(arena.pair, chosen, [view, pair], **fields.QUIET)
    for vote, button in votes.items():
        button.click(
            lambda pair, chosen, vote=vote: arena.vote(pair, chosen, vote),
            [pair, chosen],
            [view, pair, tally],
            **fields.QUIET,
        )
    after.click(arena.case, [real, made], [asked, case], **fields.QUIET)
    for answer, button in {"real": says_real, "made": says_made}.items():
        button.click(
            lambda case, answer=answer: arena.answer(case, answer),
            case,
            [asked, case, score],
            **fields.QUIET,
        )
    page.load(arena.refresh, None, [notice, chosen, real, made], **fields.QUIET)
    _offer(rounds)


def _offer(rounds: Rounds) -> None:
    """The same for programs."""
    endpoint(rounds.sets, "samples")
    endpoint(rounds.new_pair, "new_pair")
    endpoint(rounds.vote_on, "vote")
    endpoint(rounds.votes, "votes")
    endpoint(rounds.new_case, "quiz")
    endpoint(rounds.answer_to, "answer")
    endpoint(rounds.answers, "answers")
    endpoint(rounds.results, "results")


@dataclass(frozen=True)
class Arena:
    """What the tab's events do."""

    rounds: Rounds

    def pair(self, chosen: list[str] | None) -> tuple[str, str]:
        """Two pictures and the prompt that both answer; their round's id."""
        try:
            pair = self.rounds.pair(chosen or [])
            left, right = (unmarked(image) for image in pair.open())
            warning = self._warning(pair)
        except UserError as error:
            return look.problem(str(error)), ""
        prompt = look.note(f"Prompt: {pair.prompt}") if pair.prompt else ""
        pictures = _row(_picture(left, "Left"), _picture(right, "Right"))
        return warning + prompt + pictures, self.rounds.wait(pair)

    def vote(self, pair: str, chosen: list[str], vote: str) -> tuple[Any, Any, Any]:
        """Record what was preferred, say whose pictures they were, and show the next pair."""
        try:
            row = self.rounds.vote_on(pair, vote)
        except UserError:
            gr.Info("No pair waits for a vote; press New pair for another.")
            return gr.skip(), gr.skip(), gr.skip()
        told = look.note(f"Left was {row['left']}, right {row['right']}.")
        return *self.pair(chosen), told + self.tally()

    def tally(self) -> str:
        """The votes so far, as a table."""
        shares = ballots.preferred(self.rounds.votes())
        title = "Preferred to what stood beside it (chance gives 50%, less where both were bad)"
        return _table(title, shares) if shares else ""

    def case(self, real: str | None, made: str | None) -> tuple[str, str]:
        """One picture, whose it is not being told; its round's id."""
        try:
            case = self.rounds.case(real, made)
            picture = _picture(unmarked(case.open()), "Real or made?")
            return self._quiz_warning(str(real)) + _row(picture), self.rounds.wait(case)
        except UserError as error:
            return look.problem(str(error)), ""

    def answer(self, name: str, answer: str) -> tuple[Any, Any, Any]:
        """Record an answer, and tell the truth."""
        try:
            case = self.rounds.take(name, Case)
        except UserError:
            gr.Info("No picture waits for an answer; press Next for another.")
            return gr.skip(), gr.skip(), gr.skip()
        self.rounds.answer(case, answer)
        truth = f"made, by {case.samples}" if case.made else "real"
        right = "Right" if (answer == "made") == case.made else "Wrong"
        words = look.note(f"{right}: it was {truth}. Press Next for another.")
        return _row(_picture(case.open(), f"It was {truth}")) + words, "", self.score()

    def score(self) -> str:
        """The quiz so far: 50 % is what guessing gives."""
        shares = ballots.told_apart(self.rounds.answers())
        if not shares:
            return ""
        hits, count = sum(s.hits for s in shares.values()), sum(s.count for s in shares.values())
        return _table(
            "Told apart (guessing gives 50%)", {"all rounds": ballots.Share(hits, count)} | shares
        )

    def _warning(self, pair: Pair) -> str:
        """Beside pictures that may be X-rays."""
        names = [self.rounds.name(file) for file in (pair.left, pair.right)]
        models = self.rounds.bench.models()
        made = [m for m in models if any(name.startswith(f"{m.name}/") for name in names)]
        return look.warning(made, " ".join([pair.prompt, *names]))

    def _quiz_warning(self, real: str) -> str:
        """Beside pictures that may be real X-rays."""
        root = self.rounds.bench.root
        return look.FOR_STUDY if of_radiographs(root / real, root, [real]) else ""

    def refresh(self) -> list[Any]:
        sets = self.rounds.sets()
        real = self.rounds.bench.sets()
        return [
            gr.update(visible=not sets),
            gr.update(choices=sets, value=self.rounds.related()),
            gr.update(choices=real, value=next(iter(real), None)),
            gr.update(choices=sets, value=next(iter(sets), None)),
        ]


def _row(*figures: str) -> str:
    return f'<div class="osteon-figures osteon-arena">{"".join(figures)}</div>'


def _picture(image: Image.Image, alt: str) -> str:
    words = escape(alt)
    return f"<figure>{img(image, alt, exact=True)}<figcaption>{words}</figcaption></figure>"


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
