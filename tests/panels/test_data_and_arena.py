"""What the Data and Arena tabs do with files, without a server."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.files import read_jsonl, write_json, write_jsonl
from core.images import write_png
from core.sets import open_set
from panels.arena import Arena
from panels.data import ANY, Data
from panels.history import newest
from panels.workbench import Workbench


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """data/birds of six images, the last two equal but for a pixel; two sets of samples."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (32, 32), np.uint8) for _ in range(5)]
    pictures.append(pictures[4].copy())
    pictures[5][0, 0] ^= 1
    folder = tmp_path / "data/birds"
    for number, pixels in enumerate(pictures):
        write_png(Image.fromarray(pixels), folder / f"train/{number}.png")
    rows = [
        {"file_name": f"{n}.png", "text": f"bird {n} <b>", "view": "PA", "findings": ["x", str(n)]}
        for n in range(6)
    ]
    write_jsonl(folder / "train/metadata.jsonl", rows)
    rejected = [{"file": "bad<.png", "reason": "empty file"}]
    write_json(folder / "set.json", {"mode": "L", "rejected": rejected})
    for run in ("one", "two"):
        for seed in range(3):
            image = Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))
            write_png(image, tmp_path / f"runs/{run}/samples/default/{seed:06d}.png")
    return Workbench(tmp_path)


def test_a_set_is_browsed_by_caption_and_column(bench: Workbench) -> None:
    data = Data(bench)
    status, thumbnails, rows = data.browse("data/birds", "train", "BIRD", ANY, ANY, 1)
    assert "6 images, page 1 of 1" in status
    assert thumbnails[0][1] == "0.png: bird 0 <b>"
    _, _, rows = data.browse("data/birds", "train", "", "findings", "3", 1)
    assert [row["file_name"] for row in rows] == ["3.png"]
    assert data.values("data/birds", "train", "view")["choices"] == [ANY, "PA"]
    assert "no test split" in data.browse("data/birds", "test", "", ANY, ANY, 1)[0]
    assert "There is no set" in data.browse("data/../../etc", "train", "", ANY, ANY, 1)[0]
    opened = data.opened("data/birds", "train")
    assert "bad&lt;.png" in opened[3]


def test_edits_are_noted_and_heeded(bench: Workbench) -> None:
    data = Data(bench)
    assert "Noted for 1.png" in data.save("data/birds", "train", "1.png", " a crow ", False)
    assert "Noted for 2.png" in data.save("data/birds", "train", "2.png", "bird 2 <b>", True)
    assert "Nothing has changed" in data.save("data/birds", "train", "1.png", "a crow", False)
    assert "no image" in data.save("data/birds", "train", "../set.json", "x", False)
    notes = read_jsonl(bench.root / "data/birds/edits.jsonl")
    assert notes == [
        {"split": "train", "file_name": "1.png", "text": "a crow"},
        {"split": "train", "file_name": "2.png", "exclude": True},
    ]
    found = open_set(bench.root / "data/birds")
    assert len(found) == 5
    assert "a crow" in found.captions
    captions = [c for _, c in data.browse("data/birds", "train", "", ANY, ANY, 1)[1]]
    assert captions[2].startswith("left out")


def test_near_duplicates_are_shown(bench: Workbench) -> None:
    html = Data(bench).doubles("data/birds", "train")
    assert "1 pairs" in html
    assert "4.png" in html
    assert html.count("<img") == 2


def test_only_images_of_the_set_are_viewed(bench: Workbench) -> None:
    data = Data(bench)
    assert "data:image/png" in data.view("data/birds", "train", "0.png", 127.5, 255)
    with pytest.raises(UserError):
        data.view("data/birds", "train", "../../../runs/one/samples/default/000000.png", 1, 1)


def test_a_vote_is_blind_and_kept(bench: Workbench) -> None:
    arena = Arena(bench)
    sets = arena.sets()
    assert sets == ["runs/one/samples/default", "runs/two/samples/default"]
    view, pair = arena.pair(sets)
    assert pair is not None
    assert pair.left.name == pair.right.name
    assert "samples" not in view
    assert pair.left.name not in view
    _, none, tally = arena.vote(pair, "left")
    assert none is None
    left = pair.left.parent.relative_to(bench.root).as_posix()
    assert f"Left was {left}" in tally
    (row,) = arena.votes()
    assert (row["left"], row["vote"]) == (left, "left")
    arena.vote(None, "left")  # nothing is on the page: nothing is recorded
    assert len(arena.votes()) == 1
    assert "two sets" in arena.pair(sets[:1])[0]


def test_the_quiz_tells_the_truth_after_the_answer(bench: Workbench) -> None:
    arena = Arena(bench)
    seen: set[bool] = set()
    for _ in range(40):
        view, case = arena.case("data/birds", "runs/one/samples/default")
        assert case is not None
        assert "made, by" not in view
        assert case.file.name not in view
        said, _, score = arena.answer(case, "made")
        assert ("Right" in said) == case.made
        seen.add(case.made)
    assert seen == {True, False}
    assert len(arena.answers()) == 40
    assert "guessing gives 50%" in score
    assert "Choose real images" in arena.case("data/none", "runs/one/samples/default")[0]


def test_history_is_read_from_the_pictures_alone(bench: Workbench) -> None:
    model: Any = SimpleNamespace(folder=Path("runs/one"), family_name="vae")
    image = Image.new("L", (8, 8))
    facts = '{"seed": 4, "prompt": "", "run": "one", "family": "vae"}'
    write_png(image, bench.pictures / "one/000004-a.png", {"osteon": facts})
    write_png(image, bench.pictures / "one/foreign.png", {"osteon": "[]"})
    write_png(image, bench.pictures / "one/gone.png", {"osteon": facts.replace('"one"', '"x"')})
    (picture,) = newest(bench.pictures, [model])
    assert picture.facts["seed"] == 4
