"""What a tab does, a program can ask for: every function of the page has a named endpoint."""

from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from app import build
from core.vectors import saved_vectors
from panels.workbench import Workbench
from tests.panels.test_app import ask, pictures

OFFERED = {
    "Playground.recent": {"history"},
    "Playground.selected": {"picture_settings", "nearest"},
    "Playground.restore": {"picture_settings"},
    "SideBySide.closer": {"two_pictures"},
    "Latent.saved": {"vectors"},
    "Arena.pair": {"new_pair"},
    "Arena.case": {"quiz"},
    "Train.watch": {"training"},
    "Train.notice": {"training"},
    "Train.begin_with": {"training_presets", "training_runs"},
    "Train.take_up": {"training_settings"},
    "Train.stop": {"stop_training"},
    "Data.browse": {"images"},
    "Data.by_column": {"columns"},
    "Data.opened": {"columns", "rejects"},
    "Data.select": {"images"},
    "Data.view": {"window"},
    "Data.save": {"edit_image"},
    "Data.doubles": {"near_duplicates"},
    "Reports.offer": {"report_file"},
    "Reports.beside": {"two_reports"},
}
"""Functions of the page, and the endpoints that give a program the same."""
PLUMBING = {"fit", "refresh", "<lambda>", "apply"}
"""Last parts of the names of those that only arrange the page: lists, hints, random seeds."""


def test_every_function_of_the_page_has_an_endpoint(tmp_path: Path) -> None:
    page = build(Workbench(tmp_path))
    public = {f.api_name for f in page.fns.values() if f.fn and f.api_visibility == "public"}
    private = {
        f.fn.__qualname__ for f in page.fns.values() if f.fn and f.api_visibility != "public"
    }
    told = {name for name in private if name.rpartition(".")[2] not in PLUMBING}
    assert told - OFFERED.keys() == set()
    assert set().union(*OFFERED.values()) - public == set()
    assert len(told) > 15
    described = page.get_api_info()["named_endpoints"]
    assert all(described[f"/{name}"]["description"] for name in public)


def test_presets_and_lists_are_told(client: Client, project: Path) -> None:
    lists = project / "prompts/wildcards"
    lists.mkdir(parents=True)
    (project / "prompts/birds.txt").write_text("a heron\n")
    (lists / "sky.txt").write_text("red\nblue\n")
    presets = client.predict(api_name="/presets")
    assert {"label": "birds: a heron", "prompt": "a heron"} in presets
    assert client.predict(api_name="/wildcards") == {"sky": ["red", "blue"]}


def test_a_picture_of_the_history_is_told_of_and_compared(client: Client, project: Path) -> None:
    (first,) = pictures(ask(client, seed=31, steps=1))
    (second,) = pictures(ask(client, seed=32, steps=1))

    def asked(*given: Any, name: str) -> Any:
        return client.predict(*given, api_name=name)

    names = [row["picture"] for row in asked(name="/history")]
    assert names[:2] == [f"tuned/{second.name}", f"tuned/{first.name}"]
    told = asked(names[1], name="/picture_settings")
    assert (told["model"], told["settings"]["seed"]) == ("runs/tuned", 31)
    assert "osteon generate --run runs/tuned --seeds 31" in told["command"]
    assert Path(asked(names[1], name="/picture_file")).read_bytes() == first.read_bytes()
    near = asked(names[1], name="/nearest")
    assert near["image"].startswith("data/ramps/")
    assert -1 <= near["likeness"] <= 1
    assert near["thumbnail"].startswith("data:image/")
    same = asked(names[1], names[1], name="/two_pictures")
    assert (same["most"], same["html"].count("<img")) == (0, 2)
    assert "equal" in same["words"]
    assert asked(names[0], names[1], name="/two_pictures")["most"] > 0
    outside = sorted((project / "outside/by-hand").glob("*.png"))[0]
    other = asked(names[0], f"outside/by-hand/{outside.name}", name="/two_pictures")
    assert other.keys() == {"html"}  # of another size
    for wrong in ("../first/report.html", "tuned/../../../app.py", "tuned/.env", "/etc/passwd", ""):
        with pytest.raises(AppError, match="There is no picture"):
            asked(wrong, name="/picture_settings")
    assert asked("runs/chest-gan", name="/vectors") == saved_vectors(project / "runs/chest-gan")
    with pytest.raises(AppError, match="no model 'x' here"):
        asked("x", name="/vectors")
