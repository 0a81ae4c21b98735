"""A picture's facts: drawn, shown, restored and replayed alike, whatever the model and the call."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from core.errors import UserError
from core.families import load_sampler
from core.files import write_json
from core.generate import SETTINGS_KEY, generate
from core.images import write_png
from gan.networks import Generator
from gan.weights import save_generator
from panels import look
from panels.catalogue import RADIOGRAPH, find_models, pick
from panels.drawing import Event, Failure, Picture, Task, as_drawn, draw
from panels.history import SHOWN, newest, read_facts
from panels.label import WHEN, labelled
from panels.latent import Latent, read_points
from panels.playground import Playground
from panels.replay import Replay
from panels.tasks import task_of
from panels.thumbnails import data_uri
from panels.workbench import Workbench
from tests.panels.project import make_gan
from tests.panels.test_small_parts import noise

SETTINGS = ("", 1, 4.0, 1.0, "ddim")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """runs/views, a GAN of two classes; runs/chest-gan, of X-rays."""
    make_views(tmp_path / "runs/views")
    make_gan(tmp_path / "runs/chest-gan")
    return Workbench(tmp_path)


def make_views(run: Path) -> None:
    shape = {"z_dim": 8, "size": 32, "channels": 1, "width": 2}
    config = shape | {"classes": ["AP", "PA"]}
    save_generator(Generator(**shape, classes=2), config, run / "weights")
    write_json(run / "run.json", {"family": "wgan-gp", "status": "finished", "steps": 7})


def playground(bench: Workbench, model: str, seed: int, label: str) -> Picture:
    """The picture that the Playground makes."""
    answers = list(Playground(bench).generate(model, "", "", seed, 1, *SETTINGS[1:], label))
    picture: Picture = answers[-2][-1]
    return picture


def latent(bench: Workbench, model: str, seeds: str, keep: str = "", count: int = 3) -> str:
    """The row of pictures that the Latent tab shows."""
    way = Latent(bench).draw(model, "Between", count, seeds, "", *SETTINGS, WHEN[0], keep)
    *_, (_, _, row, _), _ = way
    return str(row)


def replay(bench: Workbench, file: Path) -> tuple[str, str]:
    """Last status and last view."""
    told: list[Any] = ["", ""]
    for answer in Replay(bench).draw(str(file)):
        told = [new if isinstance(new, str) else old for old, new in zip(told, answer, strict=True)]
    return told[0], told[1]


def of_run(bench: Workbench, name: str, **facts: Any) -> Picture:
    """A picture that has no file."""
    model = pick(bench.models(), name)
    known = {"seed": 3, "prompt": "", "run": model.folder.name, "family": model.family_name}
    return Picture(0, model, bench.pictures / "none.png", known | facts)


@pytest.mark.parametrize("label", ["always", "never"])
def test_a_class_is_not_the_height_of_the_visible_mark(bench: Workbench, label: str) -> None:
    made = playground(bench, "runs/views", 5, label)
    (wanted,) = load_sampler(bench.root / "runs/views", "cpu")([5], [""])
    assert made.open().tobytes() == wanted.tobytes()
    assert made.facts["label"] == ""
    (again,) = newest(bench.pictures, bench.models())
    assert again.open().size == (32, 32)
    assert "equal, pixel for pixel" in replay(bench, made.path)[0]


def test_older_files_say_label_for_the_height(bench: Workbench, tmp_path: Path) -> None:
    facts = {"seed": 1, "prompt": "", "run": "views", "family": "wgan-gp", "label": 10}
    write_png(labelled(noise(32), 10), tmp_path / "old.png", {SETTINGS_KEY: json.dumps(facts)})
    read = read_facts(tmp_path / "old.png")
    assert as_drawn(tmp_path / "old.png", read).tobytes() == noise(32).tobytes()
    assert "label" not in task_of(read, pick(bench.models(), "runs/views"), []).options


@pytest.mark.parametrize(
    ("options", "dtype"), [({"truncation": 0.7, "label": "PA"}, "fp32"), ({}, "bf16")]
)
def test_what_the_terminal_drew_is_replayed_whole(
    bench: Workbench, options: dict[str, Any], dtype: str
) -> None:
    run = bench.root / "runs/views"
    plain = load_sampler(run, "cpu")([4], [""])[0]
    folder = generate(run, [4], device="cpu", dtype=dtype, options=options)
    status, view = replay(bench, folder / "000004.png")
    assert "equal, pixel for pixel" in status
    assert as_drawn(folder / "000004.png", {}).tobytes() != plain.tobytes()
    (again,) = newest(bench.pictures, bench.models())
    for name, value in (options | ({"dtype": dtype} if dtype != "fp32" else {})).items():
        assert f"--{name} {value}" in look.command(again)
        assert f'<th scope="row">{look.ROWS[name]}</th><td>{value}</td>' in view


def test_weights_of_a_step_are_replayed(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/kept"
    shutil.copytree(project / "runs/tuned", run)
    shutil.copytree(run / "weights", run / "weights-000250")
    options = {"weights": 250, "steps": 1}
    folder = generate(run, [2], ["a ramp"], "own", device="cpu", options=options)
    status, view = replay(Workbench(tmp_path), folder / "000002.png")
    assert "equal, pixel for pixel" in status
    assert "<td>250</td>" in view


def test_a_replay_keeps_no_limits_of_the_form(project: Path) -> None:
    models = find_models(project)
    facts = {"seed": 2**40, "prompt": "x" * 2000, "run": "tuned", "steps": 200, "guidance": 30.0}
    task = task_of(facts, pick(models, "runs/tuned"), models)
    assert (task.seed, len(task.prompt), task.options["steps"]) == (2**40, 2000, 200)
    for wrong in ({"steps": 10**6}, {"steps": "many"}, {"dtype": "fp8"}, {"loras": {"gone": 1}}):
        with pytest.raises(UserError):
            task_of(facts | wrong, pick(models, "runs/tuned"), models)
    loras = {str(project / "runs/tuned"): 0.5}  # as it was typed in a terminal
    (run,) = task_of(facts | {"loras": loras}, pick(models, "models/tiny"), models).loras
    assert run.name == "runs/tuned"


def test_settings_are_shown_though_the_model_is_gone(bench: Workbench) -> None:
    made = playground(bench, "runs/views", 5, "never")
    shutil.rmtree(bench.root / "runs/views")
    answers: Iterator[Any] = Replay(bench).draw(str(made.path))
    assert [next(answers)[1], "<td>views</td>" in next(answers)[1]] == ["", True]
    with pytest.raises(UserError, match="views, is not here"):
        next(answers)


@pytest.mark.parametrize("wrong", [{"mix": {}}, {"mix": 3}, {"loras": {"a": "b"}}])
def test_settings_that_are_none_of_ours_give_a_sentence(tmp_path: Path, wrong: Any) -> None:
    facts = {"seed": 1, "prompt": "", "run": "x"} | wrong
    write_png(noise(8), tmp_path / "x.png", {SETTINGS_KEY: json.dumps(facts)})
    with pytest.raises(UserError, match="cannot be read"):
        read_facts(tmp_path / "x.png")


def test_a_way_between_classes_ends_at_the_seeds_images(bench: Workbench) -> None:
    latent(bench, "runs/views", "4, 5")
    sampler = load_sampler(bench.root / "runs/views", "cpu")
    made = newest(bench.pictures, bench.models())[::-1]
    assert [picture.facts["label"] for picture in made] == ["AP", "AP", "PA"]
    for seed, picture in ((4, made[0]), (5, made[2])):
        assert picture.open().tobytes() == sampler([seed], [""])[0].tobytes()
        assert f"--seeds {seed}" in look.facts(picture)
    between = look.facts(made[1])
    assert "osteon generate" not in between
    assert "<td>seeds 4 × 0.5 + 5 × 0.5</td>" in between
    assert "field for class AP, the mix" in Playground(bench).restore(made[1])[-1]
    assert "equal, pixel for pixel" in replay(bench, made[1].path)[0]


def test_saved_vectors_are_named_and_walked_between(bench: Workbench) -> None:
    tab = Latent(bench)
    assert tab.saved("runs/chest-gan") == tab.saved(None) == ""
    latent(bench, "runs/chest-gan", "1, 2", "two")
    latent(bench, "runs/chest-gan", "3, 4", "<four>".strip("<>"))
    assert "Saved vectors: four, two." in tab.saved("runs/chest-gan")
    row = latent(bench, "runs/chest-gan", "two, four")
    assert "two × 0.5 + four × 0.5" in row
    sampler = load_sampler(bench.root / "runs/chest-gan", "cpu")
    last, _, first, *_ = newest(bench.pictures, bench.models())
    for seed, picture in ((2, first), (4, last)):
        assert picture.open().tobytes() == sampler([seed], [""])[0].tobytes()
        assert "no command makes it" in look.facts(picture)


@pytest.mark.parametrize("text", ["²", "--5", "3, ⑤"])
def test_what_looks_like_a_seed_and_is_none_gives_a_sentence(bench: Workbench, text: str) -> None:
    name = read_points(text)[-1]
    *_, (status, *_) = Latent(bench).draw("runs/chest-gan", "Between", 3, f"{text}, 1")
    assert f"&#x27;{name}&#x27; is no seed" in status
    with pytest.raises(UserError, match="whole number from 0"):
        read_points("-5")


def test_latent_shows_x_rays_with_the_mark_and_says_what_they_are(bench: Workbench) -> None:
    shown = decoded(latent(bench, "runs/chest-gan", "1, 2"))
    assert [image.size for image in shown] == [(32, 42)] * 3
    assert all(b"made by a generative model" in image.info["comment"] for image in shown)
    assert all(b"trainedAlgorithmicMedia" in image.info["xmp"] for image in shown)


def decoded(html: str) -> list[Image.Image]:
    """The pictures inside a piece of the page."""
    found = re.findall(r"base64,([^\"]+)", html)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_pictures_in_the_page_say_that_a_model_made_them(bench: Workbench) -> None:
    made = playground(bench, "runs/chest-gan", 1, "always").open()
    (exact,) = decoded(data_uri(made, exact=True) + '"')
    assert exact.info["synthetic"].startswith("true")
    assert exact.tobytes() == made.tobytes()
    for real in (data_uri(noise(8)), data_uri(noise(8), exact=True)):
        (image,) = decoded(real + '"')
        assert not {"synthetic", "comment", "xmp"} & image.info.keys()


@pytest.mark.parametrize(
    ("model", "label", "restored"),
    [
        ("runs/views", WHEN[0], WHEN[0]),
        ("runs/views", "always", "always"),
        ("runs/chest-gan", WHEN[0], WHEN[0]),
        ("runs/chest-gan", "never", "never"),
    ],
)
def test_the_visible_label_is_restored_as_the_rule_it_was(
    bench: Workbench, model: str, label: str, restored: str
) -> None:
    values = Playground(bench).restore(playground(bench, model, 3, label))
    assert values[9] == restored
    assert values[-2] is False  # no new seed: it is the restored one that draws it again
    assert "Generate makes it again" in values[-1]


def test_settings_without_a_field_are_named(project: Path) -> None:
    play = Playground(Workbench(project))
    picture = of_run(play.bench, "runs/tuned", prompt="a ramp", steps=9, weights=250, dtype="bf16")
    values = play.restore(picture)
    assert values[:6] == ("runs/tuned", "a ramp", "", 3, 1, 9)
    assert "no field for weights 250, arithmetic bf16" in values[-1]
    over = replace(picture, facts=picture.facts | {"steps": 200})
    assert "The number of steps must lie from 1 to 150" in play.restore(over)[-1]
    assert "--weights 250" in look.command(picture)
    assert "--dtype bf16" in look.command(picture)
    quoted = replace(picture, facts=picture.facts | {"negative": "12"})
    assert "--negative '\"12\"'" in look.command(quoted)  # else read as a number


def chosen(index: int) -> gr.SelectData:
    """A click on picture number `index` of a gallery."""
    return gr.SelectData(None, {"index": index, "value": None})


def test_a_picture_whose_file_is_gone_gives_a_sentence(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        playground(bench, "runs/views", seed, "never")
    play = Playground(bench)
    shown, made = play.recent()
    assert len(shown) == 2
    made[0].picture.path.unlink()
    words, picked = play.selected(made, chosen(0))
    assert f"The file of {made[0].picture.path.stem} is not there any more" in words
    assert picked == made[0].picture  # to be drawn again
    assert play.selected(made, chosen(1))[1] == made[1].picture
    models, files = bench.models(), [each.picture.path for each in made]
    listed = {"views": files}  # one was deleted meanwhile
    monkeypatch.setattr(Path, "glob", lambda folder, asked: listed.get(folder.name, []))
    assert [picture.path for picture in newest(bench.pictures, models)] == files[1:]


def test_other_pictures_leave_the_history_its_own(bench: Workbench) -> None:
    made = playground(bench, "runs/views", 1, "never").path
    for folder in ("grids", "deleted-run"):
        for number in range(SHOWN + 1):
            write_png(noise(8), bench.pictures / folder / f"{number}.png")
    write_png(noise(8), made.with_name("strange.png"))
    assert [picture.path for picture in newest(bench.pictures, bench.models())] == [made]
    for number in range(SHOWN + 1):
        shutil.copy(made, made.with_name(f"copy-{number}.png"))
    assert len(newest(bench.pictures, bench.models())) == SHOWN


def test_a_setting_that_the_model_lacks_is_a_failure(bench: Workbench) -> None:
    model = pick(bench.models(), "runs/chest-gan")
    plain = Task(model, 0, "", {"guidance": 2.0, "lora_scale": 0.5})
    needs = [{"seed"}, {"guidance"}, {"lora_scale", "prompt"}, {"truncation"}]
    tasks = [replace(plain, needs=frozenset(names)) for names in needs]
    events: list[Event] = list(draw(bench.resident, tasks, bench.pictures))
    failed = [event.sentence for event in events if isinstance(event, Failure)]
    assert failed == [
        "runs/chest-gan has no guidance to set; take another model or setting.",
        "runs/chest-gan has no LoRA scale and no prompt to set; take another model or setting.",
    ]
    assert sum(isinstance(event, Picture) for event in events) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, True) for text in ("X ray", "x‑ray", "X–ray", "x_ray", "chestX-ray8")),
        *((text, True) for text in ("a CXR", "my_cxr", "chest film", "DICOM files", "Röntgen")),
        *((text, False) for text in ("a fox ray", "a chest of gold", "filmed", "stingray")),
    ],
)
def test_x_rays_by_any_name(text: str, expected: bool) -> None:
    assert bool(RADIOGRAPH.search(text)) is expected


@pytest.mark.parametrize(("facts", "expected"), [({"domain": "chest"}, True), ({}, False)])
def test_a_set_of_chests_needs_no_captions(
    bench: Workbench, facts: dict[str, str], expected: bool
) -> None:
    write_json(bench.root / "data/plain/set.json", {"source": "a clinic"} | facts)
    (bench.root / "runs/views/config.yaml").write_text("data: data/plain\n")
    assert pick(bench.models(), "runs/views").radiographs is expected


def test_empty_prompt_files_are_no_hindrance(bench: Workbench) -> None:
    (bench.root / "prompts").mkdir()
    (bench.root / "prompts/views.txt").write_text("# none yet\n")
    (bench.root / "prompts/good.txt").write_text("a heron\n")
    assert "runs/views" in bench.model_names()
    assert bench.presets() == [("good: a heron", "a heron")]


def test_what_is_mixed_in_is_known_of_a_picture(project: Path) -> None:
    bench = Workbench(project)
    given = ("models/tiny", "a ramp", "", 77, 1, 1, 4.0, 1.0, "ddim", "never", "runs/tuned", 0.5)
    answers = list(Playground(bench).generate(*given))
    (preview, *_) = [image for answer in answers for image in decoded(str(answer[4]))]
    assert b"made by a generative model" in preview.info["comment"]
    picture = answers[-2][-1]
    assert [run.name for run in picture.loras] == ["runs/tuned"]
    old = next(p for p in newest(bench.pictures, bench.models()) if p.facts["seed"] == 77)
    assert [run.name for run in old.loras] == ["runs/tuned"]
    shown = Playground(bench).judged(old)
    assert shown.nearest is not None
    assert shown.nearest.image.parent == project / "data/ramps"
    beside = decoded(look.resemblance(picture, shown.nearest))
    assert ["xmp" in image.info for image in beside] == [True, False]
