"""What is found, and what is known of it."""

import shutil
from pathlib import Path

import pytest

from core.errors import UserError
from core.files import write_json, write_jsonl
from panels.catalogue import find_models, find_reports, pick


def make_run(root: Path, name: str, family: str, settings: str = "steps: 1\n") -> Path:
    run = root / "runs" / name
    write_json(run / "run.json", {"family": family, "status": "running"})
    (run / "weights").mkdir()
    (run / "config.yaml").write_text(settings)
    return run


def test_models_are_found_by_family(project: Path, tmp_path: Path) -> None:
    """Those that the project was made with; other tests train more in it."""
    made = ("runs/tuned", "runs/chest-gan", "runs/small-vae", "runs/broken")
    for place in ("models", *made):
        shutil.copytree(project / place, tmp_path / place, symlinks=True)
    models = {model.name: model for model in find_models(tmp_path)}
    assert set(models) == {"models/tiny", "models/sd2-mini", *made}
    assert models["runs/tuned"].lora
    assert not models["models/tiny"].lora
    assert not models["runs/tuned"].radiographs
    assert models["runs/chest-gan"].radiographs
    assert models["runs/tuned"].label == "runs/tuned"
    assert models["runs/tuned"].prompts == ("a ramp",)
    assert find_models(tmp_path)[0].name == "runs/tuned"


def test_only_what_can_draw_is_listed(tmp_path: Path) -> None:
    make_run(tmp_path, "fine", "vae")
    make_run(tmp_path, "foreign", "from-the-future")
    make_run(tmp_path, "an-autoencoder", "base")
    unborn = make_run(tmp_path, "unborn", "vae")
    (unborn / "weights").rmdir()
    damaged = make_run(tmp_path, "damaged", "vae")
    (damaged / "run.json").write_text('{"family": ')
    (found,) = find_models(tmp_path)
    assert found.label == "runs/fine (running)"
    assert find_reports(tmp_path) == []
    with pytest.raises(UserError, match="no model 'runs/unborn'"):
        pick([found], "runs/unborn")


@pytest.mark.parametrize(
    ("caption", "expected"), [("chest X-ray, PA view", True), ("a bird flying", False)]
)
def test_radiographs_are_known_by_their_captions(
    tmp_path: Path, caption: str, expected: bool
) -> None:
    write_json(tmp_path / "data/some/set.json", {"source": "somewhere"})
    write_jsonl(tmp_path / "data/some/train/metadata.jsonl", [{"text": caption}])
    make_run(tmp_path, "gan", "wgan-gp", "data: data/some:train\n")
    (model,) = find_models(tmp_path)
    assert model.radiographs is expected


def test_prompts_come_from_a_file_of_the_models_name(tmp_path: Path) -> None:
    make_run(tmp_path, "birds", "dreambooth")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/birds.txt").write_text("# birds\na heron\n\na crow\n")
    (model,) = find_models(tmp_path)
    assert model.prompts == ("a heron", "a crow")
