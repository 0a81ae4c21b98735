"""What the Data tab does with files, without a server; Data, Arena and Reports by programs."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from app import launch
from core.errors import UserError
from core.files import read_jsonl, write_json, write_jsonl
from core.images import open_image, write_png
from core.sets import open_set
from panels.arena import Arena
from panels.data import Data, Picked
from panels.history import newest
from panels.prepared import ANY
from panels.rounds import Rounds
from panels.workbench import Workbench
from tests.panels.test_arena import decoded
from tests.panels.test_small_parts import write_report


def picked(file: str) -> Picked:
    return Picked(("data/birds", "train", file), (0, 255))


def clicked(index: int) -> Any:
    return SimpleNamespace(index=index)


def test_a_set_is_browsed_by_caption_and_column(bench: Workbench) -> None:
    data = Data(bench)
    status, thumbnails, _ = data.browse("data/birds", "train", "BIRD", ANY, ANY, 1)
    assert "6 images, page 1 of 1" in status
    assert thumbnails[0][1] == "0.png: bird 0 <b>"
    _, _, shown = data.browse("data/birds", "train", "", "findings", "3", 1)
    assert [item.place for item in shown] == [("data/birds", "train", "3.png")]
    value, page, _, _, shown = data.by_column("data/birds", "train", "", "view")
    assert value["choices"] == [ANY, "PA"]
    assert (page, len(shown)) == (1, 6)  # what the old column let through no longer counts
    assert "no test split" in data.browse("data/birds", "test", "", ANY, ANY, 1)[0]
    assert "There is no set" in data.browse("data/../../etc", "train", "", ANY, ANY, 1)[0]
    opened = data.opened("data/birds", "train")
    assert "bad&lt;.png" in opened[3]


def test_edits_are_noted_and_heeded(bench: Workbench) -> None:
    data = Data(bench)
    assert "Noted for train/1.png" in data.save(picked("1.png"), " a crow ", False)
    assert "Noted for train/2.png" in data.save(picked("2.png"), "bird 2 <b>", True)
    assert "Nothing has changed" in data.save(picked("1.png"), "a crow", False)
    assert "no image" in data.save(picked("../set.json"), "x", False)
    assert "longer than 1000 characters" in data.save(picked("3.png"), "x" * 1001, False)
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
    status, pairs, shown = Data(bench).doubles("data/birds", "train", False)
    assert "1 pairs" in status
    assert [item.place[2] for item in shown] == ["4.png", "5.png"]
    assert [words for _, words in pairs["value"]] == [
        "Pair 1: train/4.png, 1.000",
        "Pair 1: train/5.png, 1.000",
    ]


def test_what_is_not_shown_is_told(bench: Workbench) -> None:
    data, folder = Data(bench), bench.root / "data/birds"
    for number in range(6, 20):
        shutil.copy(folder / "train/0.png", folder / f"train/{number}.png")
    write_jsonl(folder / "train/metadata.jsonl", [{"file_name": f"{n}.png"} for n in range(20)])
    status, _, shown = data.doubles("data/birds", "train", False)
    assert len(shown) == 24
    assert "The nearest 12 are shown." in status
    rejected = [{"file": f"{n}.png", "reason": "empty file"} for n in range(201)]
    write_json(folder / "set.json", {"rejected": rejected})
    html = data.opened("data/birds", "train")[3]
    assert "201 files were refused" in html
    assert "The first 200 are named." in html


def test_near_duplicates_of_another_split_are_leaks(bench: Workbench) -> None:
    data, folder = Data(bench), bench.root / "data/birds"
    assert "no other split" in data.doubles("data/birds", "train", True)[0]
    unlike = Image.fromarray(np.random.default_rng(9).integers(0, 256, (32, 32), np.uint8))
    write_png(unlike, folder / "test/0.png")
    write_png(open_image(folder / "train/2.png"), folder / "test/1.png")
    write_jsonl(folder / "test/metadata.jsonl", [{"file_name": f"{n}.png"} for n in range(2)])
    _, _, shown = data.doubles("data/birds", "train", True)
    assert [item.place[1:] for item in shown] == [("test", "1.png"), ("train", "2.png")]
    leak, *_ = data.select(shown, None, 127.5, 255, clicked(0))
    data.save(leak, "", True)
    assert "0 pairs" in data.doubles("data/birds", "train", True)[0]


def test_only_images_of_the_set_are_viewed(bench: Workbench) -> None:
    data = Data(bench)
    assert "data:image/png" in data.view(picked("0.png"), 127.5, 255)
    outside = "../../../runs/one/samples/default/000000.png"
    assert "has no image" in data.view(picked(outside), 1, 1)
    with pytest.raises(UserError, match="has no image"):
        data.prepared.window("data/birds", "train", outside)


@pytest.mark.parametrize("by", ["name", "link", "folder"])
def test_an_image_outside_of_its_set_is_not_shown(bench: Workbench, by: str) -> None:
    data, folder = Data(bench), bench.root / "data/birds"
    secret = bench.root / "private/secret.png"
    write_png(Image.new("L", (8, 8)), secret)
    names = {"name": "../../../private/secret.png", "link": "link.png", "folder": "l/secret.png"}
    (folder / "train/link.png").symlink_to(secret)
    (folder / "train/l").symlink_to(secret.parent)
    rows = [{"file_name": name} for name in ("0.png", names[by])]
    write_jsonl(folder / "train/metadata.jsonl", rows)
    status, thumbnails, _ = data.browse("data/birds", "train", "", ANY, ANY, 1)
    assert len(thumbnails) == 1
    assert "leads out of the set" in status
    with pytest.raises(UserError, match="leads out of the set"):
        data.prepared.window("data/birds", "train", names[by])
    assert "leads out of the set" in data.doubles("data/birds", "train", False)[0]


def test_what_was_picked_stays_of_its_set(bench: Workbench) -> None:
    data = Data(bench)
    shutil.copytree(bench.root / "data/birds", bench.root / "data/crows")
    _, _, shown = data.browse("data/birds", "train", "", ANY, ANY, 1)
    chosen, caption, *_ = data.select(shown, None, 127.5, 255, clicked(1))
    assert caption == "bird 1 <b>"
    # Save pressed before the page has turned to the other set, and after
    assert "data/birds/edits.jsonl" in data.save(chosen, caption + "!", False)
    assert not (bench.root / "data/crows/edits.jsonl").exists()
    opened = data.opened("data/crows", "train")
    assert opened[6:10] == [None, "", False, ""]
    assert "Select an image." in opened[10]
    assert "Select an image first." in data.save(opened[6], caption, True)


def test_sixteen_bits_have_sliders_of_their_own(bench: Workbench) -> None:
    data = Data(bench)
    Image.fromarray(np.array([[0, 700, 4000]], np.uint16)).save(
        bench.root / "data/birds/train/1.png"
    )
    _, _, shown = data.browse("data/birds", "train", "", ANY, ANY, 1)
    scan, *_, level, window = data.select(shown, None, 127.5, 255, clicked(1))
    assert (level["minimum"], level["maximum"], level["value"]) == (0, 4095, 2000)
    assert (window["maximum"], window["value"]) == (4095, 4000)
    *_, level, window = data.select(shown, scan, 40, 80, clicked(1))
    assert "value" not in level  # kept, as nothing else would fit better
    _, *_, level, window = data.select(shown, scan, 2000, 4000, clicked(0))
    assert (level["maximum"], level["value"], window["value"]) == (255, 127.5, 255)


def test_what_is_damaged_gives_a_sentence(bench: Workbench) -> None:
    data, folder = Data(bench), bench.root / "data/birds"
    (folder / "train/1.png").write_bytes(b"\x89PNG nonsense")
    status, thumbnails, shown = data.browse("data/birds", "train", "", ANY, ANY, 1)
    assert "6 images" in status
    assert "not a readable image" in status
    assert (len(thumbnails), len(shown)) == (5, 5)
    assert "not a readable image" in data.view(picked("1.png"), 1, 1)
    assert "not a readable image" in data.doubles("data/birds", "train", False)[0]
    assert "no test split" in data.by_column("data/birds", "test", "", "view")[2]
    (folder / "set.json").write_text("{")
    assert "not valid JSON" in data.opened("data/birds", "train")[3]


def test_a_refused_picture_is_shown_where_it_lies_in_the_project(bench: Workbench) -> None:
    picture, facts = Image.new("L", (8, 8)), bench.root / "data/birds/set.json"
    write_png(picture, bench.root / "raw/small.png")
    write_png(picture, bench.root.parent / "secret.png")
    rejected = [{"file": name, "reason": "x"} for name in ("small.png", "../../secret.png", "no")]
    write_json(facts, {"rejected": rejected, "settings": {"source": "raw"}})
    html = Data(bench).opened("data/birds", "train")[3]
    assert html.count("<img") == 1
    assert 'alt="small.png"' in html


def test_real_x_rays_are_not_for_diagnosis(bench: Workbench) -> None:
    arena, made = Arena(Rounds(bench)), "runs/one/samples/default"
    assert Data(bench).opened("data/birds", "train")[5] == ""
    assert "Not for diagnosis" not in arena.case("data/birds", made)[0]
    write_json(bench.root / "data/birds/set.json", {"source": "chest radiographs"})
    assert "Not for diagnosis" in Data(bench).opened("data/birds", "train")[5]
    assert "Not for diagnosis" in arena.case("data/birds", made)[0]


def test_programs_can_do_what_the_page_does(bench: Workbench, tmp_path: Path) -> None:
    for name, value in (("first", 12.0), ("second", 8.5)):
        write_report(bench.root / "reports" / name, value)
    page, address = launch(bench.root, port=None)
    try:
        client = Client(address, verbose=False, download_files=tmp_path / "got")
        _data_by_program(client, bench.root)
        _arena_by_program(client)
        _reports_by_program(client)
    finally:
        page.close()


def _data_by_program(client: Client, root: Path) -> None:
    birds = "data/birds"
    assert client.predict(api_name="/sets") == [birds]
    changes = client.predict(birds, "train", "1.png", "a crow", True, api_name="/edit_image")
    assert changes == {"text": "a crow", "exclude": True}
    found = client.predict(name=birds, words="CROW", api_name="/images")
    assert (found["count"], found["rows"][0]["file_name"]) == (1, "1.png")
    assert read_jsonl(root / "data/birds/edits.jsonl")[0]["file_name"] == "1.png"
    with pytest.raises(AppError, match="longer than 1000"):
        client.predict(birds, "train", "1.png", "x" * 1001, api_name="/edit_image")
    with pytest.raises(AppError, match="no image"):
        client.predict(birds, "train", "../set.json", "x", api_name="/edit_image")
    assert client.predict(birds, api_name="/columns")["view"] == {"PA": 6}
    assert client.predict(birds, api_name="/rejects")[0]["reason"] == "empty file"
    seen = client.predict(birds, "train", "2.png", 10, 20, api_name="/window")
    stored = np.asarray(open_image(root / "data/birds/train/2.png"))
    assert ((np.asarray(decoded(seen["image"])) == 255) == (stored >= 20)).all()
    (pair,) = client.predict(birds, api_name="/near_duplicates")
    assert (pair["first"], pair["second"]) == ("train/4.png", "train/5.png")


def _arena_by_program(client: Client) -> None:
    one, two = sets = client.predict(api_name="/samples")
    duel = client.predict(sets, api_name="/new_pair")
    assert decoded(duel["left"]).size == decoded(duel["right"]).size == (32, 32)
    with pytest.raises(AppError, match="A vote is one of left, right, tie, bad"):
        client.predict(duel["pair"], "up", api_name="/vote")
    duel = client.predict(sets, api_name="/new_pair")
    row = client.predict(duel["pair"], "left", api_name="/vote")
    assert {row["left"], row["right"]} == {one, two}
    assert client.predict(api_name="/votes") == [row]
    with pytest.raises(AppError, match="answer it once"):
        client.predict(duel["pair"], "left", api_name="/vote")
    case = client.predict("data/birds", one, api_name="/quiz")
    row = client.predict(case["case"], "made", api_name="/answer")
    assert client.predict(api_name="/answers") == [row]
    results = client.predict(api_name="/results")
    assert results["arena"][client.predict(api_name="/votes")[0]["left"]]["share"] == 1
    assert sum(share["count"] for share in results["quiz"].values()) == 1


def _reports_by_program(client: Client) -> None:
    file = client.predict("first", api_name="/report_file")
    assert Path(file).read_text() == "<h1>first</h1>"
    with pytest.raises(AppError, match="There is no report"):
        client.predict("../../data", api_name="/report_file")
    (score,) = client.predict("first", "second", api_name="/two_reports")
    assert (score["value"], score["old_value"], score["reason"]) == (120, 85, "")


def test_history_is_read_from_the_pictures_alone(bench: Workbench) -> None:
    model: Any = SimpleNamespace(name="runs/one", folder=Path("runs/one"), family_name="vae")
    image = Image.new("L", (8, 8))
    facts = '{"seed": 4, "prompt": "", "run": "one", "family": "vae"}'
    write_png(image, bench.pictures / "one/000004-a.png", {"osteon": facts})
    write_png(image, bench.pictures / "one/foreign.png", {"osteon": "[]"})
    write_png(image, bench.pictures / "one/gone.png", {"osteon": facts.replace('"one"', '"x"')})
    (picture,) = newest(bench.pictures, [model])
    assert picture.facts["seed"] == 4
