"""Arena and quiz: blind, each round answered once, votes kept."""

import base64
import io
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compare.votes import people
from core.files import write_json, write_jsonl
from core.images import open_image, write_png
from panels.arena import Arena
from panels.rounds import Rounds, Sample, draw
from panels.workbench import Workbench


def test_a_vote_is_blind_and_kept(bench: Workbench) -> None:
    arena = Arena(Rounds(bench))
    sets = arena.rounds.sets()
    assert sets == ["runs/one/samples/default", "runs/two/samples/default"]
    view, name = arena.pair(sets)
    pair = arena.rounds.waiting[name]
    assert pair.left.name == pair.right.name
    assert "samples" not in view
    assert pair.left.name not in view
    assert view.count("data:image/png") == 2
    view, after, tally = arena.vote(name, sets, "left")
    assert after in arena.rounds.waiting  # the next one, at once
    assert view.count("<img") == 2
    left = pair.left.parent.relative_to(bench.root).as_posix()
    assert f"Left was {left}" in tally
    (row,) = arena.rounds.votes()
    assert (row["left"], row["vote"]) == (left, "left")
    assert "chance gives 50%" in tally
    arena.vote("", sets, "left")  # nothing is on the page: nothing is recorded
    assert len(arena.rounds.votes()) == 1
    assert "two sets" in arena.pair(sets[:1])[0]


def test_a_round_is_answered_once_however_fast(bench: Workbench) -> None:
    arena, real = Arena(Rounds(bench)), "data/birds"
    sets = arena.rounds.sets()
    pair, case = arena.pair(sets)[1], arena.case(real, sets[0])[1]
    start = threading.Barrier(16)

    def press(number: int) -> bool:
        start.wait(10)
        if number % 2:
            return isinstance(arena.answer(case, ("made", "real")[number % 4 // 2])[0], str)
        return isinstance(arena.vote(pair, sets, ("left", "right")[number % 4 // 2])[0], str)

    with ThreadPoolExecutor(16) as presses:
        heard = list(presses.map(press, range(16)))
    assert sum(heard) == 2  # the others leave the page as it is
    assert (len(arena.rounds.votes()), len(arena.rounds.answers())) == (1, 1)


def test_pictures_to_judge_tell_nothing_but_their_pixels(bench: Workbench) -> None:
    arena, (one, two) = Arena(Rounds(bench)), Rounds(bench).sets()
    for file in (bench.root / one).glob("*.png"):
        write_png(open_image(file, "L"), file, synthetic=True)
    views = [arena.case("data/birds", one) for _ in range(20)]
    views.append(arena.pair([one, two]))
    shown = [_decoded_as_stored(uri) for view, _ in views for uri in _uris(view)]
    assert len(shown) == 22
    assert [image.info for image in shown] == [{}] * 22
    made = next(name for _, name in views if getattr(arena.rounds.waiting[name], "made", False))
    (truth,) = _uris(arena.answer(made, "made")[0])
    assert "synthetic" in _decoded_as_stored(truth).info


def test_the_samples_of_a_folder_are_read_anew_when_it_changes(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr("panels.rounds._carried", lambda file: read.append(file) or {})
    bench_rounds, folder = Rounds(bench), bench.root / "runs/one/samples/default"
    for _ in range(3):
        bench_rounds.pair(bench_rounds.sets())
    assert len(read) == 6  # three a set, once
    write_png(Image.new("L", (8, 8)), folder / "000009.png")
    os.utime(folder, (1, 1))  # as another moment, on a drive that counts whole seconds
    bench_rounds.pair(bench_rounds.sets())
    assert len(read) == 10


def test_the_quiz_tells_the_truth_after_the_answer(bench: Workbench) -> None:
    arena = Arena(Rounds(bench))
    seen: set[bool] = set()
    for _ in range(40):
        view, name = arena.case("data/birds", "runs/one/samples/default")
        case = arena.rounds.waiting[name]
        assert "made, by" not in view
        assert case.file.name not in view
        said, _, score = arena.answer(name, "made")
        assert ("Right" in said) == case.made
        seen.add(case.made)
    assert seen == {True, False}
    assert len(arena.rounds.answers()) == 40
    assert "guessing gives 50%" in score
    assert "Choose real images" in arena.case("data/none", "runs/one/samples/default")[0]


def test_pairs_share_a_prompt_where_both_sets_know_theirs() -> None:
    def sample(name: str, seed: int | None = None, prompt: str = "") -> Sample:
        return Sample(Path(name), seed, prompt)

    tuned = [sample("0.png", 0, "a cat"), sample("1.png", 1, "a dog")]
    base = [sample("0.png", 0, "a dog"), sample("1.png", 1, "a dog")]
    for _ in range(8):
        assert draw(tuned, base) == (tuned[1], base[1])  # not 0.png, which is a cat and a dog
    later = [sample("7.png", 7, "a cat")]
    assert draw(tuned, later) == (tuned[0], later[0])
    assert draw(tuned, [sample("0.png", 0, "a bird")]) is None
    gan = [sample("0.png", 0)]
    assert draw(tuned, gan) == (tuned[0], gan[0])
    outside = [sample("b.jpg"), sample("c.jpg")]
    assert {draw(gan, outside) for _ in range(40)} == {(gan[0], one) for one in outside}


def test_a_duel_is_of_one_prompt_one_size_and_exact(bench: Workbench) -> None:
    random = np.random.default_rng(1)
    for run, size in (("one", 32), ("two", 48)):
        folder = bench.root / f"runs/{run}/samples/x-rays"
        pixels = random.integers(0, 256, (size, size, 3), np.uint8)
        facts = json.dumps({"seed": 4, "prompt": "a chest X-ray <b>"})
        write_png(Image.fromarray(pixels), folder / f"{run}.png", {"osteon": facts})
    arena = Arena(Rounds(bench))
    sets = [name for name in arena.rounds.sets() if name.endswith("x-rays")]
    view, name = arena.pair(sets)
    assert {image.size for image in arena.rounds.waiting[name].open()} == {(48, 48)}
    assert "Prompt: a chest X-ray &lt;b&gt;" in view
    assert "Not for diagnosis" in view
    shown = {decoded(uri).tobytes() for uri in _uris(view)}
    assert open_image(bench.root / "runs/two/samples/x-rays/two.png").tobytes() in shown
    arena.vote(name, sets, "tie")
    assert arena.rounds.votes()[0]["prompt"] == "a chest X-ray <b>"


def _uris(view: str) -> list[str]:
    return [part.partition('"')[0] for part in view.split('src="')[1:]]


def decoded(uri: str) -> Image.Image:
    return _decoded_as_stored(uri).convert("RGB")


def _decoded_as_stored(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_sets_of_one_subject_compete_by_default(bench: Workbench) -> None:
    rounds = Rounds(bench)
    assert rounds.related() == rounds.sets()[:2]
    for run, data in (("one", "birds"), ("two", "cats"), ("three", "birds")):
        folder = bench.root / "runs" / run
        write_json(folder / "run.json", {"family": "vae", "status": "finished"})
        (folder / "weights").mkdir()
        (folder / "config.yaml").write_text(f"data: data/{data}\n")
    shutil.copytree(bench.root / "runs/one/samples", bench.root / "runs/three/samples")
    assert rounds.related() == ["runs/one/samples/default", "runs/three/samples/default"]


def test_compare_reads_the_votes_old_and_new(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(bench)
    one, two = sets = rounds.sets()
    votes = bench.root / "reports/votes"
    old = {"left": one, "right": two, "left_file": "0.png", "right_file": "0.png", "vote": "left"}
    write_jsonl(votes / "arena.jsonl", [old])  # as they were without a prompt
    for _ in range(8):
        pair = rounds.pair(sets)
        rounds.vote(pair, "left" if rounds.name(pair.left) == one else "right")
    rounds.answer(rounds.case("data/birds", one), "made")
    monkeypatch.chdir(bench.root)  # the rows name sets within the project
    labels = {(bench.root / name).resolve(): name for name in sets}
    found = people(votes, labels, 0)
    assert [row["label"] for row in found["strength"]] == [one, two]
    assert found["strength"][0]["votes"] == 9
    assert found["quiz"][0]["answers"] == 1
