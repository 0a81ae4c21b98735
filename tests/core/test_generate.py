"""An image is its seed; a stopped command goes on; nothing is overwritten in silence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import core.families
import core.generate
from core.errors import UserError
from core.files import read_json, read_jsonl, write_json
from core.generate import SETTINGS_KEY, generate, made_of, main, read_options, read_seeds
from core.images import png_text
from core.prompts import read_prompts
from core.seeds import image_noise
from core.sets import open_set
from tests.core import toy


@pytest.fixture
def run(make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(core.families.FAMILIES, "toy", toy.FAMILY)
    toy.train(toy.ToySettings(data=str(make_folder()), run_dir=str(tmp_path / "run")))
    return tmp_path / "run"


def test_an_image_is_its_seed_whatever_the_batch(run: Path) -> None:
    one = generate(run, range(7), name="one", batch=1)
    many = generate(run, range(6, -1, -1), name="many", batch=3)
    for seed in range(7):
        images = [np.asarray(Image.open(f / f"{seed:06d}.png")).astype(int) for f in (one, many)]
        assert np.abs(images[0] - images[1]).max() <= 1


def test_samples_carry_what_made_them(run: Path) -> None:
    folder = generate(run, [4, 5], options={"gain": 2.0})
    rows = read_jsonl(folder / "samples.jsonl")
    assert [(r["file"], r["seed"], r["prompt"]) for r in rows] == [
        ("000004.png", 4, "dark"),
        ("000005.png", 5, "light"),
    ]
    facts = json.loads(png_text(folder / "000004.png")[SETTINGS_KEY])
    assert (facts["seed"], facts["gain"], facts["run"], facts["trained_steps"]) == (
        4,
        2.0,
        "run",
        6,
    )
    assert open_set(folder).captions == ["dark", "light"]


def test_options_are_read_as_pairs_or_behind_an_equals_sign() -> None:
    words = ["--steps", "25", "--guidance=4.5", "--negative=a=b", "--loras", '{"x": 0.5}', "--n="]
    loras = {"x": 0.5}
    wanted = {"steps": 25, "guidance": 4.5, "negative": "a=b", "loras": loras, "n": ""}
    assert read_options(words) == wanted
    for wrong in (["--steps"], ["--steps=3", "4"], ["steps", "3"]):
        with pytest.raises(UserError, match=r"Cannot read '.*'; options go as --name value"):
            read_options(wrong)


def test_a_picture_from_elsewhere_is_left_out_of_the_index(run: Path) -> None:
    folder = generate(run, range(2))
    Image.new("L", (8, 8)).save(folder / "mine.png")
    generate(run, range(3))
    files = [row["file"] for row in read_jsonl(folder / "samples.jsonl")]
    assert files == [f"{seed:06d}.png" for seed in range(3)]
    assert read_json(folder / "cost.json")["images"] == 1


def test_half_a_picture_is_drawn_anew(run: Path) -> None:
    """As a power cut leaves it; and half of what the pictures are of is said."""
    folder = generate(run, range(3))
    whole = {path: path.read_bytes() for path in folder.glob("*.png")}
    for number, path in enumerate(sorted(whole)):
        path.write_bytes(whole[path][: 60 * number])
    generate(run, [0])
    assert [row["seed"] for row in read_jsonl(folder / "samples.jsonl")] == [0]
    generate(run, range(3))
    assert {path: path.read_bytes() for path in folder.glob("*.png")} == whole
    (folder / "settings.json").write_text('{"gain"')
    with pytest.raises(UserError, match=r"settings\.json"):
        generate(run, [0])


def test_the_folder_where_one_stands_is_a_run_by_its_name(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(run, [0])
    monkeypatch.chdir(run)
    folder = generate(Path("."), [0, 1])
    assert [row["settings"]["run"] for row in read_jsonl(folder / "samples.jsonl")] == [
        run.name
    ] * 2


def test_what_is_there_is_kept_and_other_settings_are_refused(run: Path) -> None:
    folder = generate(run, range(3))
    before = (folder / "000001.png").stat().st_mtime_ns
    generate(run, range(5))
    assert (folder / "000001.png").stat().st_mtime_ns == before
    assert len(read_jsonl(folder / "samples.jsonl")) == 5
    with pytest.raises(UserError, match=r"gain: 1\.0 -> 3\.0"):
        generate(run, range(3), options={"gain": 3.0})
    with pytest.raises(UserError, match="another prompt"):
        generate(run, range(3), prompts=["light"])
    for name in ("..", ".", "", "a/b", "/a"):
        with pytest.raises(UserError, match="plain name"):
            generate(run, range(3), name=name)
    with pytest.raises(UserError, match="knows no option --steps"):
        generate(run, range(3), name="b", options={"steps": 3})


def test_another_folder_of_the_same_name_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of a folder that is no run go to runs/<its name>; so would those of others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(core.generate, "load_sampler", lambda *_: toy.load_sampler(run, "cpu"))
    for number, place in enumerate(("a/export", "b/export")):
        (tmp_path / place).mkdir(parents=True)
        write_json(tmp_path / place / "model_index.json", {})
        save_file({"x": torch.full((2,), number)}, tmp_path / place / "model.safetensors")
    folder = generate(Path("a/export"), [0])
    generate(Path("a/export"), [0, 1])
    with pytest.raises(UserError, match=r"other settings \(files: \w+ -> \w+\)"):
        generate(Path("b/export"), [0])
    file = folder / "settings.json"  # as an older version wrote it
    write_json(file, {k: v for k, v in read_json(file).items() if k != "files"})
    generate(Path("b/export"), [0])


def test_a_run_mixed_in_that_goes_on_is_noticed(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for steps in (3, 6):
        write_json(other / "run.json", {"steps": steps})
        found = made_of(run, {"loras": {str(other): 1.0}})
        assert found == {"mixed_steps": {str(other): steps}}
    for strange in (None, 5, [1], [["a"]]):  # refused by the sampler, in a sentence
        assert made_of(run, {"loras": strange}) == {}


def test_a_value_that_cannot_be_leaves_nothing_behind(run: Path) -> None:
    with pytest.raises(UserError, match="gain must be above 0"):
        generate(run, range(3), options={"gain": 0.0})
    assert not (run / "samples").exists()
    generate(run, range(3), options={"gain": 2.0})  # the same set, mended


def test_a_sampler_in_memory_serves(run: Path) -> None:
    sampler = core.families.load_sampler(run, "cpu")
    loaded, held = generate(run, [3], name="a"), generate(run, [3], name="b", sampler=sampler)
    assert (loaded / "000003.png").read_bytes() == (held / "000003.png").read_bytes()


def test_two_processes_share_the_seeds(run: Path, tmp_path: Path) -> None:
    alone = generate(run, range(5), name="alone")
    script = (
        "import core.families; from tests.core import toy;"
        "core.families.FAMILIES['toy'] = toy.FAMILY;"
        "from core.parallel import process_state; state = process_state();"
        "assert state.num_processes == 2;"
        "from core.generate import generate; from pathlib import Path; import sys;"
        "import time; time.sleep(3 * state.process_index);"  # the other might have drawn by then
        "generate(Path(sys.argv[1]), range(5), name='shared'); state.destroy_process_group()"
    )
    (tmp_path / "share.py").write_text(script)
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(tmp_path / "share.py"), str(run)],
        env=os.environ | {"PYTHONPATH": str(root), "ACCELERATE_USE_CPU": "true"},
        check=True,
    )  # fmt: skip
    shared = run / "samples/shared"
    assert len(read_jsonl(shared / "samples.jsonl")) == 5
    for path in sorted(alone.glob("*.png")):
        assert Image.open(path).tobytes() == Image.open(shared / path.name).tobytes()


def test_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--run", str(run), "--seeds", "0-2,7", "--prompt", "light", "--gain", "1.5"])
    assert "4 images in" in capsys.readouterr().out
    main(["--run", str(run), "--seeds", "0", "--set", "one light"])
    assert f"--fake '{run / 'samples/one light'}' --out" in capsys.readouterr().out
    wrong = ["--seeds", "x"], ["--gain"], ["--run", "absent"], ["--batch", "0"], ["--device", "no"]
    for words in wrong:
        with pytest.raises(SystemExit) as stop:
            main(["--run", str(run), *words])
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0-3000000000", "names more than 1,000,000 seeds; give fewer at once.$"),
        ("0-600000,700000-1300000", "names more than 1,000,000 seeds"),
        (f"1,{2**64}", f"has one above {2**64 - 1}; give smaller ones.$"),
        (f"0-{10**30}", "has one above"),
    ],
)
def test_seeds_by_a_slip_are_refused(text: str, said: str) -> None:
    """Before they fill the memory."""
    with pytest.raises(UserError, match=said):
        read_seeds(text)
    assert read_seeds(f"{2**64 - 2}-{2**64 - 1}") == [2**64 - 2, 2**64 - 1]
    assert image_noise([2**64 - 1], (1,)).shape == (1, 1)
    assert len(read_seeds("0-999999")) == 1_000_000


def test_seeds_and_prompts_are_read(tmp_path: Path) -> None:
    assert read_seeds("0-2, 9,1") == [0, 1, 2, 9]
    (tmp_path / "p.txt").write_text("# habitats\n\n a bird \nà wing\n")
    assert read_prompts(tmp_path / "p.txt") == ["a bird", "à wing"]
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    assert read_prompts(tmp_path / "p.jsonl") == ["a", "b"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for name in ("empty.txt", "absent.txt"):
        with pytest.raises(UserError):
            read_prompts(tmp_path / name)
