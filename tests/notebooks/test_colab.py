"""The Colab notebook: every cell runs, on the embedded base, with a folder in Drive's place."""

import ast
import json
import os
import secrets
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import app
from core.runs import checkpoints, read_metrics
from tests.finetune.tiny import write_images

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks/osteon_colab.ipynb"
PRESET = "configs/dreambooth/sinomacrops_lora.yaml"
DRIVE = "drive/MyDrive/osteon"
OURS = ("data", "runs", "reports")
"""What a fresh machine has not."""
STUBS = {
    "google/colab/__init__.py": "",
    "google/colab/drive.py": (
        "from pathlib import Path\n\n\n"
        "def mount(place):\n    Path(place, 'MyDrive').mkdir(parents=True, exist_ok=True)\n"
    ),
    "pip/__init__.py": "",
    "pip/__main__.py": (
        "import sys\nfrom pathlib import Path\n\n"
        "Path('asked-of-pip').write_text(' '.join(sys.argv[1:]))\n"
    ),
}
"""Colab's own module, and an installer that only notes what it was asked."""


def cells(content: Path | None = None) -> list[str]:
    """The notebook's code; `content` stands in the place of /content."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    found = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return [cell.replace("/content", str(content)) if content else cell for cell in found]


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What /content is to a machine of Colab's; nothing is in it yet."""
    for name, text in STUBS.items():
        (tmp_path / "stubs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stubs" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "stubs")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stubs"), prepend=os.pathsep)
    (tmp_path / "content").mkdir()
    monkeypatch.chdir(tmp_path / "content")
    before = {*sys.modules}
    yield tmp_path / "content"
    for name in {*sys.modules} - before:  # "google" too, where nothing else brings it
        if name.partition(".")[0] == "google":
            del sys.modules[name]


def run(parts: list[str], **changes: Any) -> dict[str, Any]:
    """Run the cells with other values in the form; returns the notebook's names."""
    names: dict[str, Any] = {}
    exec(parts[0], names)
    names |= changes
    for part in parts[1:]:
        exec(part, names)
    return names


def test_the_notebook_is_clean_and_plain_python() -> None:
    found = cells()
    assert len(found) > 6
    for cell in found:
        ast.parse(cell)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    assert all(cell["id"] for cell in notebook["cells"])
    assert (ROOT / PRESET).exists()
    assert PRESET in found[0]
    assert "# @param" in found[0]


def test_it_finds_osteon_or_says_where_to_put_it(content: Path, tmp_path: Path) -> None:
    head = cells(content)[:3]
    with pytest.raises(FileNotFoundError, match="say in REPOSITORY where to clone it from"):
        run(head)
    source = tmp_path / "source"
    (source / "core").mkdir(parents=True)
    (source / "core/cli.py").touch()
    git = ["git", "-C", str(source), "-c", "user.name=x", "-c", "user.email=x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    for _ in range(2):  # all cells may be run again
        names = run(head, REPOSITORY=str(source))
        assert Path.cwd() == content / "osteon"
        assert Path("asked-of-pip").read_text() == "install -q -e ."
        assert Path("data/class").resolve() == content / DRIVE / "class"
        assert names["RUN_DIR"] == content / DRIVE / "runs/my-animal"


def test_outside_colab_it_is_opened_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.delenv("OSTEON_DRIVE", raising=False)
    names = run(cells()[:3])
    assert not names["IN_COLAB"]
    assert Path.cwd() == ROOT
    assert names["RUN_DIR"] == Path("drive/runs/my-animal")


def test_a_changed_form_or_zip_makes_the_set_anew(
    content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in its place and was not made here stays, and on a full disk all does."""
    new_machine(content)
    (content / DRIVE).mkdir(parents=True)
    zip_up(content / DRIVE / "pictures.zip", "one")
    names = run(cells(content)[:3])
    made, place, prepare = [], names["SET"], cells(content)[4]

    def osteon(*words: Any) -> None:
        place.mkdir(parents=True)  # which is refused where something is
        (place / "set.json").touch()
        made.append([file.read_text() for file in sorted(words[3].iterdir())])

    def fill_in(**changes: Any) -> int:
        exec(prepare, names | {"osteon": osteon} | changes)
        return len(made)

    assert fill_in() == fill_in() == 1
    assert fill_in(CAPTION="another") == 2
    assert fill_in(CAPTION="another", SIZE=64) == 3
    zip_up(content / DRIVE / "pictures.zip", "two", "three")
    assert fill_in() == 4
    assert made == [["one"]] * 3 + [["two", "three"]]
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(RuntimeError, match=r"takes 0\.0 GB here.*make room"):
            fill_in(SIZE=64)
    assert (place / "set.json").exists()
    (place / "form.json").unlink()
    with pytest.raises(FileExistsError):
        fill_in()
    assert (place / "set.json").exists()


def test_the_app_takes_whatever_password_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def launch(*given: Any, **_: Any) -> tuple[Any, str]:
        started.append(given)
        return SimpleNamespace(block_thread=lambda: None), ""

    def osteon(verb: str, *words: Any) -> None:
        assert verb == "app"
        app.main([*map(str, words)])

    monkeypatch.setattr(app, "launch", launch)
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _: "-drawn")
    monkeypatch.setenv("OSTEON_PASSWORD", "")
    monkeypatch.chdir(tmp_path)
    cell = cells()[-1]
    assert "OPEN_APP = False" in cell
    names = {"os": os, "DRIVE": tmp_path, "osteon": osteon}
    exec(cell.replace("OPEN_APP = False", "OPEN_APP = True"), names)
    assert started == [(tmp_path, "127.0.0.1", 7860, True, ("osteon", "-drawn"))]


@pytest.mark.slow
def test_every_cell_runs_and_after_a_disconnect_goes_on(content: Path, tmp_path: Path) -> None:
    drive = content / DRIVE
    drive.mkdir(parents=True)
    write_images(tmp_path / "pictures")
    with zipfile.ZipFile(drive / "pictures.zip", "w") as pictures:
        for file in sorted((tmp_path / "pictures").glob("*.png")):
            pictures.write(file, file.name)
    preset = tmp_path / "few_class_images.yaml"
    text = (ROOT / PRESET).read_text(encoding="utf-8")
    assert "count: 200" in text
    preset.write_text(text.replace("count: 200", "count: 3"), encoding="utf-8")
    form = {"BASE": "models/sd2-mini", "PRESET": str(preset), "SIZE": 64, "SAVE_EVERY": 1}
    drawn = []
    for steps in (2, 3):
        new_machine(content)
        names = run(cells(content), **form, STEPS=steps)
        trained = drive / "runs/my-animal"
        assert names["IN_COLAB"]
        assert [row["step"] for row in read_metrics(trained)] == list(range(1, steps + 1))
        assert checkpoints(trained)
        assert len(list((trained / f"samples/after-{steps}").glob("*.png"))) == 8
        drawn.append({file: file.stat().st_mtime_ns for file in drive.glob("class/*/*.png")})
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]  # not drawn again


def zip_up(file: Path, *texts: str) -> None:
    with zipfile.ZipFile(file, "w") as pictures:
        for number, text in enumerate(texts):
            pictures.writestr(f"{number}.png", text)


def new_machine(content: Path) -> None:
    """Nothing is left but the Drive; Osteon is copied to it."""
    os.chdir(content)
    for place in content.iterdir():
        if place.name != "drive":
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    (content / "osteon").mkdir()
    for place in ROOT.iterdir():
        if not place.name.startswith(".") and place.name not in OURS:
            (content / "osteon" / place.name).symlink_to(place)
