"""What other programs read is what was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import finetune.export
import finetune.webui
from core.errors import UserError
from finetune.export import export, main
from finetune.hub import check_push, push
from finetune.model_card import MARK, front_matter, licence_of
from finetune.models import open_pipeline
from finetune.new_word import load_word
from finetune.settings import DreamBoothSettings, Lora, Optim, Token
from finetune.train_dreambooth import train
from tests.finetune.tiny import tiny_pipeline
from tests.trainers import check_modes

Make = Callable[..., DreamBoothSettings]
BOTH = ("attention", "feedforward")


class Hub:
    """What is asked of HfApi."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def create_repo(self, name: str, private: bool | None, exist_ok: bool) -> str:
        self.asked.append((name, private, exist_ok))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        files = [path for path in folder_path.rglob("*") if path.is_file()]
        self.asked.append((repo_id, folder_path, len(files)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("finetune.hub.HfApi", lambda: hub)
    monkeypatch.setattr("finetune.hub.get_token", lambda: "hf_x")
    return hub


def test_a_run_exports_in_three_ways(
    settings: Make, capsys: pytest.CaptureFixture, hub: Hub
) -> None:
    own = settings(
        prompt="a <wing>", token=Token("<wing>", "bat"), text_encoder=True, steps=2,
        lora=Lora(rank=2, alpha=4.0, targets=BOTH), optim=Optim(lr=1e-2),
        preview_every=2, preview_seeds=(0,),
    )  # fmt: skip
    train(own)
    run = Path(own.run_dir)
    main(["--run", str(run)])
    assert "hf upload" in capsys.readouterr().out
    assert hub.asked == []
    folder = run / "export"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "diffusers",
        "pipeline",
        "previews",
        "webui",
    ]
    assert (folder / "webui" / "run.safetensors").exists()
    check_modes(run)
    assert (folder / "diffusers" / "learned_embeds.safetensors").exists()
    tokenizer = folder / "pipeline" / "tokenizer"
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= {p.name for p in tokenizer.iterdir()}
    saved = load_file(folder / "pipeline" / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in saved)
    assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {
        torch.float16
    }
    merged = StableDiffusionPipeline.from_pretrained(folder / "pipeline", safety_checker=None)
    assert "<wing>" in merged.tokenizer.get_vocab()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    for word in (
        "![drawn in training](previews/step-000002.png)",
        "load_lora_weights",
        "load_textual_inversion",
        "| lora.rank | 2 |",
        "synthetic",
    ):
        assert word in card
    assert "DoRA" not in card
    assert str(run.parent) not in card.replace(own.base, "")
    main(["--run", str(run), "--push", "me/wing", "--private"])  # in place of the first
    assert capsys.readouterr().out.endswith("https://huggingface.co/me/wing\n")
    count = sum(path.is_file() for path in folder.rglob("*"))
    assert hub.asked == [("me/wing", True, True), ("me/wing", folder, count)]


@pytest.mark.parametrize("fault", ["cut short", "other numbers"])
def test_files_that_do_not_read_back_are_no_export(
    settings: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    own = settings(steps=1, lora=Lora(rank=2))
    train(own)
    real = shutil.copy2

    def copy(source: Path, target: Path) -> None:
        real(source, target)
        if fault == "cut short":
            target.write_bytes(target.read_bytes()[:100])
        else:
            save_file({k: v + 1 for k, v in load_file(source).items()}, target)

    monkeypatch.setattr(finetune.export.shutil, "copy2", copy)
    with pytest.raises((UserError, RuntimeError), match=r"not copied|do not load back"):
        export(Path(own.run_dir), Path(own.run_dir) / "export")
    assert not list(Path(own.run_dir).glob("*export*"))


def test_a_push_that_cannot_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, hub: Hub
) -> None:
    """Bad names and no login before anything is written; the hub's own refusals after."""
    for name in ("wing", "me/my wing", "/me/wing", "../wing"):
        with pytest.raises(UserError, match="OWNER/NAME"):
            check_push(name)

    def refuse(**asked: Any) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(hub, "upload_folder", refuse)
    mine = tmp_path / "my wing"
    with pytest.raises(UserError, match=rf"no route to the hub.*hf upload me/wing '{mine}'`"):
        push(mine, "me/wing", private=False)
    assert hub.asked == [("me/wing", None, True)]
    monkeypatch.setattr("finetune.hub.get_token", lambda: None)
    with pytest.raises(SystemExit) as stop:
        main(["--run", str(tmp_path), "--push", "me/wing"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "hf auth login" in line


def test_the_licence_is_the_bases_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert licence_of("models/sd2-mini", None) == {"license": "apache-2.0"}
    assert licence_of(str(tmp_path), None) == {"license": "other"}
    (tmp_path / "README.md").write_text("# no front matter\n")
    assert licence_of(str(tmp_path), None) == {"license": "other"}
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: other\nlicense_name: x\ntags: [y]\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    lines = front_matter({"base": "a/b", "revision": "c0ffee"}, "it's", ["lora"])
    assert lines.startswith("base_model: a/b\nlicense: other\nlicense_name: x\nlibrary_name")
    assert "base_model" not in front_matter({"base": "a/b", "revision": None}, "", ["full"])


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["README.md", "thesis.tex"], "is no export"),
        (["README.md", "pipeline/x.json"], "is no export"),
        ([MARK, "webui/x.safetensors", "thesis.tex"], "thesis.tex"),
        ([MARK, "pipeline/unet/notes.docx"], "notes.docx"),
        ([MARK, ".git/config"], ".git"),
    ],
)
def test_what_is_no_export_is_never_replaced(tmp_path: Path, files: list[str], named: str) -> None:
    weights = tmp_path / "run" / "weights"
    weights.mkdir(parents=True)
    (weights / "osteon.json").write_text("{}")
    out = tmp_path / "out"
    for name in files:
        file = out / ("README.md" if name == MARK else name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"LoRA, {MARK}" if name == MARK else "precious")
    before = {path: path.is_file() and path.read_text() for path in out.rglob("*")}
    with pytest.raises(UserError, match=f"{named}.*another --out"):
        export(tmp_path / "run", out)
    assert {path: path.is_file() and path.read_text() for path in out.rglob("*")} == before


def test_whole_networks_export_merged(settings: Make, tmp_path: Path) -> None:
    own = settings(lora=None, steps=1)
    train(own)
    saved = load_file(Path(own.run_dir) / "weights" / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in saved)  # older versions read it
    folders = export(Path(own.run_dir), tmp_path / "out")
    assert [folder.name for folder in folders] == ["pipeline"]
    opened = StableDiffusionPipeline.from_pretrained(*folders)
    assert opened.text_encoder.dtype == opened.unet.dtype == torch.float32
    with pytest.raises(UserError, match="no fine-tuned weights"):
        export(tmp_path, tmp_path / "other")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="is no export"):
        export(Path(own.run_dir), tmp_path / "taken")


def test_a_base_replaced_since_is_never_merged_into(
    settings: Make, base: Path, tmp_path: Path
) -> None:
    """Other weights, or another prediction type, under the name that the run knows."""
    mine = Path(shutil.copytree(base, tmp_path / "base"))
    own = settings(base=str(mine), lora=Lora(rank=2), steps=1)
    train(own)
    run, out = Path(own.run_dir), tmp_path / "out"
    tiny_pipeline(seed=1).unet.save_pretrained(mine / "unet")
    with pytest.raises(UserError, match="was tuned from another"):
        export(run, out)
    shutil.copytree(base / "unet", mine / "unet", dirs_exist_ok=True)
    tiny_pipeline("epsilon").scheduler.save_pretrained(mine / "scheduler")
    with pytest.raises(UserError, match="was tuned from another"):
        export(run, out)
    assert not out.exists()
    shutil.copytree(base / "scheduler", mine / "scheduler", dirs_exist_ok=True)
    assert len(export(run, out)) == 3


def test_a_new_word_goes_to_webui_too(settings: Make, base: Path, tmp_path: Path) -> None:
    """By its file's name, as diffusers reads such a file as well."""
    word = Token("<wing>?", "bat", vectors=2, lr=0.1)
    train(own := settings(prompt="a <wing>?", token=word, steps=1, lora=None, unet=False))
    out = tmp_path / "out"
    export(Path(own.run_dir), out)
    file = "webui/embeddings/wing.safetensors"
    assert (
        f"There the new word is `wing`, by its file, `{file}`." in (out / "README.md").read_text()
    )
    own_word, theirs = open_pipeline(base), open_pipeline(base)
    load_word(own_word, Path(own.run_dir) / "weights")
    theirs.load_textual_inversion(out / file, token="wing?")
    one, other = (
        each.encode_prompt(text, "cpu", 1, False)[0]
        for each, text in ((own_word, "a <wing>?"), (theirs, "a wing?"))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert [*load_file(out / file)] == ["emb_params"]


def test_the_weights_of_a_kept_step_export(settings: Make, tmp_path: Path) -> None:
    lora = Lora(rank=2, kind="dora")
    own = settings(lora=lora, steps=2, keep_weights=(1,), optim=Optim(lr=1e-2))
    train(own)
    run, out = Path(own.run_dir), tmp_path / "out"
    export(run, out, "1")
    files = [f / "pytorch_lora_weights.safetensors" for f in (out / "diffusers", run / "weights")]
    files.append(run / "weights-000001" / files[0].name)
    exported, newest, kept = (load_file(file) for file in files)
    assert all(torch.equal(exported[key], kept[key]) for key in kept)
    assert any(not torch.equal(exported[key], newest[key]) for key in newest)
    card = (out / "README.md").read_text()
    assert "| steps | 1 |" in card
    assert "`webui/` holds each layer's whole difference" in card
    with pytest.raises(UserError, match="'3' should be one of: newest, 1"):
        export(run, out, "3")


@pytest.mark.parametrize("family", ["vae", "wgan-gp", "base"])
def test_a_run_of_another_family_is_told_where_its_images_come_from(
    tmp_path: Path, family: str
) -> None:
    run = tmp_path / "my run"
    (run / "weights").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"family": family, "status": "finished"}))
    told = (
        f"Export is for runs of dreambooth, and .*my run is of {family}; `osteon generate --run '"
    )
    with pytest.raises(UserError, match=told):
        export(run, tmp_path / "out")


def test_a_run_is_named_after_its_folder(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """From within it, too, and twice; what is printed is a shell's one word."""
    own = settings(lora=Lora(rank=2), steps=1, run_dir=str(tmp_path / "my run"))
    train(own)
    monkeypatch.chdir(own.run_dir)
    for _ in range(2):
        main(["--run", ".", "--out", "an export"])
        assert "`hf upload OWNER/NAME 'an export'`" in capsys.readouterr().out
        assert [f.name for f in Path("an export/webui").iterdir()] == ["my run.safetensors"]
        assert "\n# my run\n" in Path("an export/README.md").read_text()
    monkeypatch.chdir("an export")
    export(Path(own.run_dir), Path("."))
    assert sorted(f.name for f in Path(own.run_dir).glob("*an export*")) == ["an export"]


@pytest.mark.parametrize("out", ["five/0.png/x", "five/0.png/x/y", "five/gone"])
def test_what_stands_in_the_way_of_an_export_is_named(tmp_path: Path, out: str) -> None:
    weights = tmp_path / "run" / "weights"
    weights.mkdir(parents=True)
    (weights / "osteon.json").write_text("{}")
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / "0.png").write_text("precious")
    (tmp_path / "five" / "gone").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"five/(0.png|gone) is in the way.*another --out"):
        export(tmp_path / "run", tmp_path / out)
    assert (tmp_path / "five" / "0.png").read_text() == "precious"
