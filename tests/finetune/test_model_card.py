"""What a card tells is what was trained, and its lines of Python draw with it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline

from core.files import read_json, write_json
from finetune.export import export
from finetune.model_card import instructions
from finetune.models import Place
from finetune.sample import load_sampler
from finetune.settings import DreamBoothSettings, Lora, Optim, Token
from finetune.train_dreambooth import train
from finetune.weights import outputs
from tests.finetune.tiny import SIZE, tiny_pipeline

Make = Callable[..., DreamBoothSettings]
WORD = {"token": Token("<wing>", "bat", lr=1e-1), "prompt": "a <wing>"}
RUNS: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "full": ({"lora": None}, "Every weight of the UNet, trained", {"full"}),
    "full text encoder": (
        {"lora": None, "unet": False, "text_encoder": True},
        "Every weight of the text encoder, trained",
        {"full"},
    ),
    "LoRA": (
        {"text_encoder": True},
        "LoRA of the UNet and text encoder, trained",
        {"lora"},
    ),
    "word": ({"unet": False, **WORD}, "The new word `<wing>`, trained", {"textual_inversion"}),
    "LoRA and word, ending in noise": (
        {"zero_terminal_snr": True, "size": 2 * SIZE, **WORD},
        "LoRA of the UNet with the new word `<wing>`, trained",
        {"lora", "textual_inversion"},
    ),
    "full, ending in noise": (
        {"zero_terminal_snr": True, "lora": None, "size": 2 * SIZE},
        "Every weight of the UNet, trained",
        {"full"},
    ),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are started: a base lies there, its text encoder in half precision, as those
    of many are."""
    pipeline = tiny_pipeline()
    pipeline.text_encoder.half()
    pipeline.save_pretrained(tmp_path / "models" / "half")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(pipeline: Any) -> dict[str, torch.Tensor]:
    """`outputs`, and what is made of the new word."""
    with torch.no_grad():
        word = pipeline.encode_prompt("a <wing>", "cpu", 1, False)[0]
    return outputs(pipeline) | {"new word": word}


def code(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(block)


@pytest.mark.parametrize("kind", RUNS)
def test_the_lines_of_the_card_draw_with_what_was_trained(
    settings: Make, project: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    changes, sentence, tags = RUNS[kind]
    values = {"base": "models/half", "steps": 1, "optim": Optim(lr=1e-2), "lora": Lora(rank=2)}
    own = settings(**values | changes)
    train(own)
    run = Path(own.run_dir)
    trained = load_sampler(run, "cpu")
    wanted = said(trained.pipeline)
    export(run, project / "out")
    card = (project / "out" / "README.md").read_text()
    assert f"\n{sentence} by Osteon from models/half on 5 images" in card
    assert f" {trained.size} px, v_prediction." in card
    assert "license: other\n" in card  # of this base nobody says one
    assert set(yaml.safe_load(card.split("---")[1])["tags"][2:]) == tags
    assert ("| lora.rank |" in card) == ("lora" in tags)
    assert ("| optim.lr |" in card) == (tags != {"textual_inversion"})

    monkeypatch.chdir(project / "out")
    drawn: dict[str, Any] = {}
    exec(code(card), drawn)
    assert drawn["image"].size == (trained.size, trained.size)
    close = {"atol": 1e-2, "rtol": 1e-2} if "full" in tags else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(said(drawn["pipeline"]), wanted, **close)
    whole = merged(card)  # of half precision files
    torch.testing.assert_close(said(whole), wanted, atol=1e-2, rtol=1e-2)
    for scheduler in (drawn["pipeline"].scheduler, whole.scheduler):
        schedules = [each.alphas_cumprod for each in (scheduler, trained.pipeline.scheduler)]
        torch.testing.assert_close(*schedules, rtol=0, atol=0)
        names = ("timestep_spacing", "clip_sample", "prediction_type")
        assert all(scheduler.config[n] == trained.pipeline.scheduler.config[n] for n in names)


def merged(card: str) -> Any:
    """The pipeline in pipeline/, as the card would open it."""
    (line,) = {*re.findall(r"StableDiffusionPipeline.from_pretrained\('pipeline'\)", card)}
    pipeline = eval(line, {"StableDiffusionPipeline": StableDiffusionPipeline})
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == torch.float32
    pipeline("a ramp", num_inference_steps=1)
    return pipeline


def test_the_verdict_is_told_of_the_weights_that_it_is_about(settings: Make, project: Path) -> None:
    own = settings(base="models/half", steps=2, keep_weights=(1,), lora=Lora(rank=2))
    train(own)
    run = Path(own.run_dir)
    verdict = "The last weights are the best measured."
    write_json(run / "run.json", read_json(run / "run.json") | {"best_reason": verdict})
    for name in ("newest", "1"):
        export(run, project / "out", name)
        card = (project / "out" / "README.md").read_text()
        assert (verdict in card) == (name == "newest")
        assert f"| steps | {2 if name == 'newest' else 1} |" in card


def test_what_is_pushed_names_no_folder_of_ones_own(settings: Make, project: Path) -> None:
    """Nor is it of use to others; a base of half precision files only is opened as such."""
    own = settings(base=str(project / "models" / "mine"), steps=1, lora=Lora(rank=2))
    tiny_pipeline().to(torch.float16).save_pretrained(own.base, variant="fp16")
    (Path(own.base) / "README.md").write_text("---\nlicense: mit\n---\n")
    train(own)
    for public in (False, True):
        export(Path(own.run_dir), project / "out", public=public)
        card = (project / "out" / "README.md").read_text()
        assert (str(project) in card) != public
        assert "license: mit\n" in card  # as the base's own says, wherever it lies
        source = repr("mine" if public else own.base)
        assert f"from_pretrained({source}, variant='fp16')" in code(card)
    (project / "mine").symlink_to(own.base)
    exec(code(card).replace("'diffusers'", repr(str(project / "out" / "diffusers"))), {})


def test_a_base_of_the_hub_is_that_of_the_run(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its name others come by and by."""
    place = Place("a/b", base, "c0ffee")
    lines = instructions({"base": "a/b", "revision": "c0ffee"}, [], place, "it's")
    asked = []
    real = StableDiffusionPipeline.from_pretrained

    def fetch(name: str, **given: Any) -> Any:
        asked.append((name, given))
        return real(base, safety_checker=None)

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", fetch)
    exec("\n".join(lines), {})
    assert asked == [("a/b", {"revision": "c0ffee"})]
