"""What the other tabs do, through their named endpoints, on the small project's real models."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.families import load_sampler
from core.files import read_jsonl
from core.generate import SETTINGS_KEY
from core.images import png_text
from core.seeds import mixed_noise
from core.vectors import read_vector, saved_vectors
from panels.ballots import record
from tests.panels.test_app import ask, pictures


def last(client: Client, *asked: Any, api_name: str) -> list[Any]:
    """The newest value of every part of an answer."""
    job = client.submit(*asked, api_name=api_name)
    job.result(timeout=600)
    newest: list[Any] = []
    for answer in job.outputs():
        answer = answer if isinstance(answer, (list, tuple)) else [answer]
        newest = [
            old if _skipped(new) else new
            for old, new in zip(newest or [None] * len(answer), answer, strict=True)
        ]
    return newest


def _skipped(value: Any) -> bool:
    """Whether a part of the answer stays as it was."""
    return isinstance(value, dict) and value.get("__type__") == "update" and "value" not in value


def fetched(client: Client, html: str) -> list[bytes]:
    """The files that a piece of the page leads to."""
    links = re.findall(r'href="([^"]+)"', html)
    answers = [httpx.get(f"{client.src}{link}") for link in links]
    return [answer.raise_for_status().content for answer in answers]


def linked(client: Client, html: str) -> list[dict[str, Any]]:
    """What is written inside the PNGs that a piece of the page leads to."""
    images = [Image.open(io.BytesIO(content)) for content in fetched(client, html)]
    return [json.loads(image.info[SETTINGS_KEY]) for image in images]


def test_pictures_by_others_stay_as_they_are(client: Client, project: Path) -> None:
    folder = project / "outside/clinic"
    deep = Image.fromarray(np.arange(0, 4096, 4, np.uint16).reshape(32, 32))
    plain = Image.new("L", (32, 32), 7)
    folder.mkdir()
    try:
        note = PngInfo()
        note.add_text("patient", "none")
        plain.save(folder / "0.png", pnginfo=note)
        deep.save(folder / "1.png")
        row = {"base": "", "tuned": "", "gan": "runs/chest-gan", "vae": "", "outside": "clinic"}
        for seed, name in enumerate(("0.png", "1.png")):
            job = client.submit(seed=seed, **row, api_name="/side_by_side")
            job.result(timeout=300)
            *_, image, words = next(a for a in job.outputs() if isinstance(a[11], str))[:12]
            assert fetched(client, words) == [(folder / name).read_bytes()]
            if name == "0.png":
                assert png_text(Path(image))["patient"] == "none"
            with Image.open(image) as seen:
                assert seen.mode in ("L", "RGB")  # windowed, where it has 16 bits
                assert seen.convert("L").getextrema() == ((7, 7) if seed == 0 else (0, 255))
    finally:
        shutil.rmtree(folder)


def test_previews_come_while_it_draws(client: Client) -> None:
    answers = ask(client, count=1, steps=4, seed=71)
    previews = [answer[4] for answer in answers if isinstance(answer[4], str) and answer[4]]
    assert any("data:image/jpeg;base64," in preview for preview in previews)
    assert answers[-1][4] == ""  # the last one is taken away


def test_x_rays_carry_a_visible_mark(client: Client, project: Path) -> None:
    (path,) = pictures(ask(client, model="runs/chest-gan", prompt="", seed=3))
    facts = json.loads(png_text(path)[SETTINGS_KEY])
    assert facts["label_height"] == 10
    (wanted,) = load_sampler(project / "runs/chest-gan", "cpu")([3], [""])
    with Image.open(path) as image:
        assert image.size == (32, 42)
        assert image.crop((0, 0, 32, 32)).tobytes() == wanted.tobytes()
    (path,) = pictures(ask(client, model="runs/chest-gan", prompt="", seed=3, label="never"))
    with Image.open(path) as image:
        assert image.size == (32, 32)


def test_wildcards_and_other_loras_are_in_the_picture(client: Client) -> None:
    (path,) = pictures(
        ask(client, model="models/tiny", prompt="a {ramp|ramp}", lora_1="runs/tuned", scale_1=0.5)
    )
    facts = json.loads(png_text(path)[SETTINGS_KEY])
    assert facts["prompt"] == "a ramp"
    assert facts["loras"] == {"runs/tuned": 0.5}
    status = ask(client, prompt="a __nothing__")[-1][1]
    assert "There is no list for __nothing__" in status


def test_a_lora_of_a_run_that_came_later_is_mixed_in(client: Client, project: Path) -> None:
    late = project / "runs/late"
    shutil.copytree(project / "runs/tuned", late)
    try:
        (path,) = pictures(ask(client, model="models/tiny", lora_1="runs/late", steps=1))
        assert json.loads(png_text(path)[SETTINGS_KEY])["loras"] == {"runs/late": 1.0}
        assert "no model &#x27;runs/never&#x27;" in ask(client, lora_1="runs/never")[-1][1]
    finally:
        shutil.rmtree(late)


def test_a_grid_holds_every_combination(client: Client, project: Path) -> None:
    axes = ["Guidance", "1, 4", "Seed", "0, 1", "Steps", "1, 2"]
    asked = ["runs/tuned", "a ramp", 0, *axes, "", 1, 4.0, 1.0, "ddim", "never"]
    folder = project / "reports/playground/grids"
    before = {*folder.glob("*.png")}
    status, _, table, sheet = last(client, *asked, api_name="/grid")
    assert "8 of 8 pictures drawn" in status
    assert table.count("<img") == 8
    assert table.count("<caption>Steps: ") == 2
    assert [f["seed"] for f in linked(client, table)] == [0, 0, 1, 1] * 2
    assert "Guidance: 1.0" in table
    (file,) = {*folder.glob("*.png")} - before
    facts = json.loads(png_text(file)["osteon-grid"])
    assert [(p["steps"], p["seed"], p["guidance"]) for p in facts["pictures"]] == [
        (steps, seed, guidance) for steps in (1, 2) for seed in (0, 1) for guidance in (1.0, 4.0)
    ]
    assert sheet is not None
    mixed = ["", "", 0, "Guidance", "4", "Model", "runs/tuned, runs/chest-gan", "none", ""]
    status, _, table, sheet = last(client, *mixed, *asked[9:], api_name="/grid")
    assert "1 of 2 pictures drawn; the table says why" in status
    assert "runs/chest-gan has no guidance to set" in table
    assert sheet is not None
    asked[4] = "1, 2, x"
    assert "takes numbers" in last(client, *asked, api_name="/grid")[0]
    asked[3:5] = ["Weights", "newest, 7"]
    assert "kept no weights &#x27;7&#x27;" in last(client, *asked, api_name="/grid")[0]


def test_a_saved_vector_is_a_point_like_a_seed(client: Client, project: Path) -> None:
    run = project / "runs/chest-gan"
    settings = ["", "", 1, 4.0, 1.0, "ddim", "never"]

    def way(mode: str, seeds: str, keep: str = "", model: str = "runs/chest-gan") -> str:
        asked = [model, mode, 2, seeds, *settings, keep]
        return str(last(client, *asked, api_name="/latent")[0])

    folder = project / "reports/playground/chest-gan"
    before = {*folder.glob("*.png")}
    assert "4 pictures" in way("Arithmetic", "51, 52, 53", "sum of three")
    assert saved_vectors(run) == ["sum of three"]
    drawn = {json.dumps(_mix(file)): file for file in {*folder.glob("*.png")} - before}
    assert "2 pictures" in way("Between", "sum of three, 51")
    assert len(drawn) == 4
    (again,) = {f for f in folder.glob("000000-*.png") if _mix(f) == [["sum of three", 1.0]]}
    total = drawn["[[51, 1.0], [52, -1.0], [53, 1.0]]"]
    weights = {51: 1.0, 52: -1.0, 53: 1.0}
    assert read_vector(run, "sum of three").equal(mixed_noise(weights, (8,)))
    with Image.open(again) as one, Image.open(total) as other:
        assert one.tobytes() == other.tobytes()
    assert "no saved vector" in way("Between", "../../weights, 5")
    assert "cannot name" in way("Between", "1, 2", "../x")
    assert "give seeds" in way("Between", "sum of three, 5", model="runs/tuned")


def _mix(file: Path) -> Any:
    return json.loads(png_text(file)[SETTINGS_KEY]).get("mix", {}).get("seeds")


def test_a_grid_over_kept_weights_shows_how_a_run_went(client: Client) -> None:
    asked = ["runs/tuned", "a ramp", 3, "Weights", "1, newest", "none", "", "none", "", "", 2]
    status, _, table, _ = last(client, *asked, 4.0, 1.0, "ddim", "never", api_name="/grid")
    assert "2 of 2 pictures drawn" in status
    assert [facts["weights"] for facts in linked(client, table)] == ["1", "newest"]
    early, late = (Image.open(io.BytesIO(content)) for content in fetched(client, table))
    assert early.tobytes() != late.tobytes()


def test_the_way_between_two_prompts_ends_at_both(client: Client, project: Path) -> None:
    prompts = ["a ramp", "the dark, 40 hills"]
    asked = ["runs/tuned", "Between", 3, "5", " | ".join(prompts), "", 2, 4.0, 1.0, "ddim", "never"]
    status, _, row, _ = last(client, *asked, api_name="/latent")
    assert "3 pictures" in status
    assert [len(facts["mix"]["prompts"]) for facts in linked(client, row)] == [1, 2, 1]
    first, between, end = (Image.open(io.BytesIO(content)) for content in fetched(client, row))
    sampler = load_sampler(project / "runs/tuned", "cpu")
    for picture, prompt in zip((first, end), prompts, strict=True):
        (wanted,) = sampler([5], [prompt], steps=2, guidance=4.0)  # one by one, as the page draws
        assert picture.tobytes() == wanted.tobytes()
    assert len({image.tobytes() for image in (first, between, end)}) == 3


def test_a_walk_of_a_vae_makes_a_loop(client: Client, project: Path) -> None:
    asked = ["runs/small-vae", "Walk", 4, "5, 6", "", "", 1, 4.0, 1.0, "ddim", "never"]
    status, _, row, _ = last(client, *asked, api_name="/latent")
    assert "4 pictures" in status
    seeds = [facts["mix"]["seeds"] for facts in linked(client, row)]
    halves = [[5, 0.5], [6, 0.5]], [[6, 0.5], [5, 0.5]]
    assert seeds == [[[5, 1.0]], halves[0], [[6, 1.0]], halves[1]]
    first, there, other, back = (Image.open(io.BytesIO(c)).tobytes() for c in fetched(client, row))
    assert there == back
    drawn = load_sampler(project / "runs/small-vae", "cpu")([5, 6], [""] * 2)
    assert [first, other] == [image.tobytes() for image in drawn]


@pytest.mark.parametrize("model", ["runs/tuned", "runs/chest-gan", "runs/small-vae"])
def test_the_way_between_two_seeds_ends_at_both(client: Client, project: Path, model: str) -> None:
    asked = [model, "Between", 3, "5, 6", "", "", 1, 4.0, 1.0, "ddim", "never"]
    status, _, row, film = last(client, *asked, api_name="/latent")
    assert "3 pictures" in status
    assert row.count("<img") == 3
    assert len({json.dumps(facts["mix"]) for facts in linked(client, row)}) == 3
    with Image.open(film["value"] if isinstance(film, dict) else film) as gif:
        assert gif.n_frames == 3
        assert b"synthetic" in gif.info["comment"]
    sampler = load_sampler(project / model, "cpu")
    options = {"steps": 1} if "steps" in sampler.options else {}
    (end,) = sampler([5], ["a ramp"], **options)
    folder = project / "reports/playground" / Path(model).name
    newest = sorted(folder.glob("000005-*.png"), key=lambda file: file.stat().st_mtime)[-2]
    with Image.open(newest) as image:
        assert image.tobytes() == end.tobytes()


def test_a_replayed_picture_is_equal(client: Client, tmp_path: Path) -> None:
    (path,) = pictures(ask(client, seed=8, label="always"))
    status, view = last(client, handle_file(path), api_name="/replay")
    assert "equal, pixel for pixel" in status
    assert view.count("<img") == 2
    foreign = tmp_path / "foreign.png"
    Image.new("L", (4, 4)).save(foreign)
    assert "no settings of ours" in last(client, handle_file(foreign), api_name="/replay")[0]
    foreign.write_bytes(b"\x89PNG nonsense")
    assert "not a readable image" in last(client, handle_file(foreign), api_name="/replay")[0]


def test_votes_are_told(client: Client, project: Path) -> None:
    record(project / "reports/votes/arena.jsonl", left="a", right="b", vote="left")
    assert client.predict(api_name="/votes")[-1]["vote"] == "left"
    answers = project / "reports/votes/quiz.jsonl"  # of other tests
    assert client.predict(api_name="/answers") == (read_jsonl(answers) if answers.exists() else [])
