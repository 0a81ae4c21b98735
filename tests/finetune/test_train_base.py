"""The base trainer, from nothing, for a few steps."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from core.errors import UserError
from core.runs import read_metrics
from core.session import Session
from finetune import autoencoder
from finetune.autoencoder import reconstruction_loss, to_images, to_tensor
from finetune.base_settings import Autoencoder, BaseSettings, TextEncoder, Unet
from finetune.networks import (
    build_autoencoder,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    save_tokenizer_files,
)
from finetune.sample import load_sampler
from finetune.train_base import train
from tests.finetune.tiny import write_images
from tests.trainers import TWO, check_modes, launch

SCRIPT = "finetune/train_base.py"
SMALL = {
    "size": 32,
    "steps": 4,
    "batch": 4,
    "checkpoint_every": 2,
    "preview_every": 4,
    "preview_prompts": ("a ramp",),
    "autoencoder": Autoencoder(channels=(8, 8, 8), steps=2, batch=2, decoder_steps=2),
    "text": TextEncoder(hidden=32, layers=1, heads=2, vocabulary=600),
    "unet": Unet(channels=(32, 32), heads=(2, 2)),
}


def test_a_base_from_nothing_opens_everywhere_and_resumes(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BaseSettings(data=str(captioned), run_dir=str(tmp_path / "whole"), **SMALL)
    train(whole)
    weights = tmp_path / "whole/weights"
    assert (weights / "tokenizer/vocab.json").exists()
    assert (weights / "tokenizer/merges.txt").exists()
    check_modes(tmp_path / "whole")

    # Plain diffusers and our sampler
    pipeline = StableDiffusionPipeline.from_pretrained(weights, safety_checker=None)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    unet = load_file(weights / "unet/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in unet.values()} == {torch.float16}
    words = load_file(weights / "text_encoder/model.safetensors")
    assert all(name.startswith("text_model.") for name in words)  # older versions read it
    image = load_sampler(tmp_path / "whole", "cpu")([3], ["a ramp"], steps=2)[0]
    assert image.size == (32, 32)

    # The decoder alone was sharpened: latents mean what they meant
    first = load_file(tmp_path / "whole-autoencoder/weights/diffusion_pytorch_model.safetensors")
    last = load_file(weights / "vae/diffusion_pytorch_model.safetensors")
    encoder = [name for name in first if name.startswith(("encoder", "quant_conv"))]
    decoder = [name for name in first if name.startswith("decoder")]
    assert encoder
    assert all(torch.equal(first[name].half(), last[name]) for name in encoder)
    assert any(not torch.equal(first[name].half(), last[name]) for name in decoder)

    # Asked for again, by whatever way to its folder, it keeps that decoder
    before = file_bytes(weights)
    train(replace(whole, run_dir=f"{whole.run_dir}/."))
    assert file_bytes(weights) == before

    # Broken after a step and taken up: bit for bit the same
    broken = replace(whole, run_dir=str(tmp_path / "broken"))
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr("finetune.train_base.preview", cut)
        train(replace(broken, preview_every=3))
    config = tmp_path / "broken/config.yaml"
    config.write_text(config.read_text().replace("preview_every: 3", "preview_every: 4"))
    train(broken)
    assert [row["step"] for row in read_metrics(tmp_path / "broken")] == [1, 2, 3, 4]
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        one, other = (
            load_file(tmp_path / run / "weights" / f"{part}.safetensors")
            for run in ("whole", "broken")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def cut(*arguments: object) -> None:
    raise RuntimeError("power cut")


def test_killed_in_its_decoder_stage_it_is_completed_without_checkpoints(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = SMALL | {"checkpoint_every": 0, "preview_every": 0}
    whole = BaseSettings(data=str(captioned), run_dir=str(tmp_path / "whole"), **own)
    train(whole)
    broken = replace(whole, run_dir=str(tmp_path / "broken"))
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        real = autoencoder.train_autoencoder
        patched.setattr(
            "finetune.train_base.train_autoencoder",
            lambda stage: cut() if stage.start else real(stage),
        )
        train(broken)
    before = networks(tmp_path / "broken")
    for changed, told in (
        ({"steps": 5}, "steps: 4 -> 5"),
        ({"lr": 1e-4}, "lr: 0.001 -> 0.0001"),
        ({"unet": replace(whole.unet, layers=2)}, "unet.layers: 1 -> 2"),
        ({"autoencoder": replace(whole.autoencoder, decoder_steps=3)}, "decoder_steps: 2 -> 3"),
    ):
        for dry_run in (True, False):
            with pytest.raises(UserError, match=f"broken was started with.*{told}"):
                train(replace(broken, **changed), dry_run)
    train(broken, dry_run=True)
    assert networks(tmp_path / "broken") == before

    train(broken)
    after = networks(tmp_path / "broken")
    assert after == networks(tmp_path / "whole")
    sharpened = {name for name in before if before[name] != after[name]}
    assert sharpened == {"vae/diffusion_pytorch_model.safetensors"}

    # Killed when the decoder was trained, but not yet in the pipeline
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr("finetune.train_base.atomic_folder", cut)
        train(broken)
    train(broken)
    assert networks(tmp_path / "broken") == after


def networks(run: Path) -> dict[str, bytes]:
    """The weights of a pipeline; configurations tell where a network was read."""
    files = file_bytes(run / "weights").items()
    return {name: content for name, content in files if name.endswith(".safetensors")}


def test_weights_are_saved_without_previews_and_come_back_when_lost(
    captioned: Path, tmp_path: Path
) -> None:
    own = SMALL | {"preview_every": 0, "autoencoder": Autoencoder((8, 8, 8), steps=2, batch=2)}
    settings = BaseSettings(data=str(captioned), run_dir=str(tmp_path / "run"), **own)
    folders = tmp_path / "run/weights", tmp_path / "run-autoencoder/weights"
    saved = []
    for _ in range(2):
        train(settings)
        saved.append([file_bytes(folder) for folder in folders])
        for folder in folders:
            shutil.rmtree(folder)
    assert saved[0] == saved[1]
    assert not (tmp_path / "run/previews").exists()
    assert any("unet" in name for name in saved[0][0])


def test_an_autoencoder_of_other_settings_or_images_is_not_taken(
    captioned: Path, tmp_path: Path
) -> None:
    own = Autoencoder((8, 8, 8), steps=2, batch=2)
    settings = BaseSettings(
        data=str(captioned), run_dir=str(tmp_path / "run"), **SMALL | {"autoencoder": own}
    )
    train(settings)
    shutil.rmtree(tmp_path / "run")
    deep, long = replace(own, latent_channels=8), replace(own, steps=3)
    for changed, told in (
        ({"autoencoder": deep}, "latent_channels: 4 -> 8"),
        ({"autoencoder": long}, r"\(autoencoder.steps: 2 -> 3\)"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"data": str(write_images(tmp_path / "other", captions=True))}, "data: "),
    ):
        for dry_run in (True, False):
            with pytest.raises(UserError, match=f"run-autoencoder was started with.*{told}"):
                train(replace(settings, **changed), dry_run)
    train(replace(settings, preview_every=0, autoencoder=replace(own, decoder_steps=1)), True)

    replaced = Path(shutil.copytree(captioned, tmp_path / "set"))
    train(replace(settings, data=str(replaced), run_dir=str(tmp_path / "new")))
    shutil.rmtree(tmp_path / "new")
    image = next(replaced.rglob("train/*.png"))
    Image.new("L", (32, 32)).save(image)
    with pytest.raises(UserError, match=r"The images of .*new-autoencoder have changed"):
        train(replace(settings, data=str(replaced), run_dir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_two_processes_learn_and_tell_what_one_does(captioned: Path, tmp_path: Path) -> None:
    """Each has other timesteps, so neither's loss alone is that of the batch."""
    own = SMALL | {"autoencoder": Autoencoder((8, 8, 8), steps=2, batch=4), "preview_every": 0}
    one = BaseSettings(data=str(captioned), run_dir=str(tmp_path / "one"), **own)
    train(one)
    launch(TWO, SCRIPT, replace(one, run_dir=str(tmp_path / "two")))
    for stage, names in (
        ("", ("loss", "gradient_norm")),
        ("-autoencoder", ("loss", "error", "kl")),
    ):
        alone, shared = (read_metrics(tmp_path / f"{run}{stage}") for run in ("one", "two"))
        assert len(alone) == len(shared) > 1
        for row, same in zip(alone, shared, strict=True):
            for name in names:
                assert same[name] == pytest.approx(row[name], rel=1e-3), (stage, name)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("name", ["batch", "autoencoder.batch"])
def test_a_batch_that_processes_cannot_share_is_refused_at_the_start(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dry_run: bool
) -> None:
    monkeypatch.setattr(
        "finetune.train_base.process_state",
        lambda: SimpleNamespace(num_processes=2, is_main_process=True),
    )
    whole = name == "batch"
    odd = {"batch": 3} if whole else {"autoencoder": Autoencoder((8, 8, 8), steps=2, batch=3)}
    own = BaseSettings(data=str(captioned), run_dir=str(tmp_path / "run"), **SMALL | odd)
    with pytest.raises(UserError, match=f"^{name} 3 cannot be shared by 2 processes; make it"):
        train(own, dry_run)
    assert not list(tmp_path.iterdir())


def test_a_batch_of_a_stage_that_is_trained_need_not_be_shared(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = SMALL | {"autoencoder": Autoencoder((8, 8, 8), steps=2, batch=3), "steps": 1}
    own = BaseSettings(data=str(captioned), run_dir=str(tmp_path / "run"), **odd)
    train(own)
    monkeypatch.setattr(
        "finetune.train_base.process_state",
        lambda: SimpleNamespace(num_processes=2, is_main_process=True),
    )
    train(own, dry_run=True)
    sharper = replace(own, autoencoder=replace(own.autoencoder, decoder_steps=1))
    with pytest.raises(UserError, match=r"^autoencoder\.batch 3 cannot be shared by 2 processes"):
        train(sharper, dry_run=True)


@pytest.mark.parametrize("main", [True, False])
def test_a_plan_is_printed_by_one_process(
    captioned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    main: bool,
) -> None:
    monkeypatch.setattr(
        "finetune.train_base.process_state",
        lambda: SimpleNamespace(num_processes=2, is_main_process=main),
    )
    train(BaseSettings(data=str(captioned), run_dir=str(tmp_path / "run"), **SMALL), dry_run=True)
    assert ("5 images" in capsys.readouterr().out) is main


def file_bytes(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by the path within it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"unet": Unet((24, 24), (1, 2))}, "unet.channels 24 .* a multiple of 16, such as 32"),
        ({"unet": Unet((32, 8), (1, 2))}, "unet.channels 8 .* a multiple of 16, such as 16"),
        ({"unet": Unet((0, 16), (1, 2))}, "unet.channels must be at least 1, not 0"),
        ({"unet": Unet((), ())}, "unet.channels needs at least one width"),
        ({"unet": Unet((16, 16), (1, 17))}, "unet.heads 17 .* 16 at most"),
        ({"unet": Unet((16, 16), (1, 0))}, "unet.heads 0 .* at least 1"),
        ({"unet": Unet((16,), (17,))}, "unet.heads 17 .* 16 at most"),
        ({"autoencoder": Autoencoder((12, 24))}, "autoencoder.channels 12 .* of 8, such as 16"),
        ({"autoencoder": Autoencoder(())}, "autoencoder.channels needs at least one width"),
        ({"autoencoder": Autoencoder((8, 8), 0)}, "autoencoder.latent_channels must be at least 1"),
        ({"text": TextEncoder(30, heads=4)}, "text.hidden 30 .* a multiple of 4, such as 32"),
        ({"text": TextEncoder(0)}, "text.hidden must be at least 1, not 0"),
        ({"size": 0}, "size must be at least 1, not 0"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        BaseSettings(data="data", run_dir="run", **SMALL | changed)


@pytest.mark.parametrize(
    "unet", [Unet((16, 48), (0, 48)), Unet((16,), (16,)), Unet((32, 16, 16), (1, 3, 5), 2)]
)
@pytest.mark.parametrize("channels", [(8,), (8, 24)])
@pytest.mark.parametrize("text", [TextEncoder(30, 1, 5), TextEncoder(7, 1, 7)])
def test_networks_at_the_edge_of_what_is_allowed_are_built(
    unet: Unet, channels: tuple[int, ...], text: TextEncoder
) -> None:
    """No more is refused than cannot be: heads of plain blocks, which have none, are not asked."""
    own = SMALL | {"autoencoder": Autoencoder(channels, 1), "text": text, "unet": unet}
    settings = BaseSettings(data="data", run_dir="run", **own)
    tokenizer = build_tokenizer(["a ramp"], text.vocabulary)
    words = build_text_encoder(text, tokenizer)(torch.zeros(2, 77, dtype=torch.long))[0]
    latents = build_autoencoder(settings.autoencoder, 32).encode(torch.zeros(2, 3, 32, 32))
    means = latents.latent_dist.mean
    built = build_unet(unet, text, 1, means.shape[-1])
    assert built(means, torch.tensor([1, 2]), words).sample.shape == means.shape


def test_captions_are_needed(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no captions"):
        train(BaseSettings(data=str(plain), run_dir=str(tmp_path / "run"), **SMALL))
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_reads_words_it_never_saw(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["a bird in the forest", "a bird by a river"] * 20, 600)
    known = tokenizer.tokenize("A bird, in the forest")
    assert known == ["a</w>", "bird</w>", ",</w>", "in</w>", "the</w>", "forest</w>"]
    name = tokenizer("Sinomacrops bondei").input_ids
    assert len(name) > 4
    assert tokenizer.unk_token_id not in name[1:-1]
    assert tokenizer.decode(name, skip_special_tokens=True).split() == ["sinomacrops", "bondei"]
    tokenizer.save_pretrained(tmp_path)
    save_tokenizer_files(tokenizer, tmp_path)
    for file in ("tokenizer.json", None):  # with it, and as older transformers read it
        assert CLIPTokenizer.from_pretrained(tmp_path)("Sinomacrops bondei").input_ids == name
        if file:
            (tmp_path / file).unlink()


def test_reconstruction_loss_by_hand() -> None:
    wanted = torch.zeros(1, 3, 2, 2)
    assert reconstruction_loss(torch.full_like(wanted, 0.5), wanted).item() == 0.5  # no edges
    edge = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 3, 2, 2)
    assert reconstruction_loss(edge, wanted).item() == 1.5  # half the pixels, every edge across
    red = torch.tensor([0.3, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    colour = (0.2 + 0.1 + 0.1) / 3  # red less grey 0.1; it counts twice
    assert reconstruction_loss(red, wanted).item() == pytest.approx(0.1 + 2 * colour)


def test_pixels_go_there_and_back() -> None:
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    tensor = to_tensor(grey)
    assert tensor.shape == (1, 3, 16, 16)
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    assert np.array_equal(np.asarray(to_images(tensor)[0])[..., 1], grey[0].numpy())


def test_a_gradient_that_overflows_fp16_ends_no_run(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler skips that step; its norm is infinite and is no sign of anything else."""
    started = Session.start

    def scaled(session: Session, *given: Any, **named: Any) -> None:
        session.accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)
        started(session, *given, **named)

    def overflow(accelerator: Accelerator, *given: Any) -> torch.Tensor:
        return torch.tensor(float("inf"))

    monkeypatch.setattr(Session, "start", scaled)
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", overflow)
    own = BaseSettings(data=str(captioned), run_dir=str(tmp_path / "run"), **SMALL)
    train(own)
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == own.steps
    assert not any("gradient_norm" in row for row in rows)
