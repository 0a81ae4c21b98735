"""Command lines written for diffusers' scripts run unchanged."""

import os
from pathlib import Path

import pytest

from core.config import parse
from core.runs import read_metrics
from finetune import train_dreambooth, train_dreambooth_lora
from finetune.aliases import NAMES, translate
from finetune.settings import DreamBoothSettings, Lora
from tests.trainers import run_facts

# From diffusers' examples/dreambooth/README.md, with our folders in place of theirs
FULL = (
    "--pretrained_model_name_or_path={base} --train_text_encoder --instance_data_dir={data} "
    "--class_data_dir={out}/class --output_dir={out}/run --with_prior_preservation "
    "--prior_loss_weight=1.0 --instance_prompt=a@photo@of@sks@dog --class_prompt=a@photo@of@dog "
    "--resolution=32 --train_batch_size=1 --use_8bit_adam --gradient_checkpointing "
    "--learning_rate=2e-6 --lr_scheduler=constant --lr_warmup_steps=0 --num_class_images=2 "
    "--max_train_steps=2 --sample_batch_size 4 --adam_beta2 0.99 --snr_gamma 5"
)
LORA = (
    "--pretrained_model_name_or_path={base} --instance_data_dir={data} --output_dir={out}/run "
    "--instance_prompt a@photo@of@sks@dog --resolution=32 --train_batch_size=1 "
    "--gradient_accumulation_steps=2 --checkpointing_steps=1 --learning_rate=1e-4 "
    "--report_to none --lr_scheduler=constant --lr_warmup_steps=0 --max_train_steps=2 "
    "--validation_prompt=A@photo@of@sks@dog@in@a@bucket --validation_epochs=1 --seed=7 "
    "--num_validation_images 2 --push_to_hub --mixed_precision no --tokenizer_name=x"
)


def words(line: str, base: Path, data: Path, out: Path) -> list[str]:
    filled = line.format(base=base, data=data, out=out)
    return [word.replace("@", " ") for word in filled.split(" ")]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


def test_every_name_is_a_setting() -> None:
    from core.config import leaf_names

    known = {*leaf_names(DreamBoothSettings), "beta1", "beta2"}
    assert set(NAMES.values()) <= known


def test_a_full_command_line(
    base: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = [word for word in words(FULL, base, plain, tmp_path) if word != "--use_8bit_adam"]
    ours = translate(given)
    settings = parse(DreamBoothSettings, ours, "").settings
    assert settings.lora is None
    assert settings.text_encoder
    assert settings.gradient_checkpointing
    assert (settings.prompt, settings.prior.prompt) == ("a photo of sks dog", "a photo of dog")
    assert (settings.prior.count, settings.prior.folder) == (2, f"{tmp_path}/class")
    assert (settings.size, settings.batch, settings.optim.lr) == (32, 1, 2e-6)
    assert (settings.optim.betas, settings.min_snr_gamma) == ((0.9, 0.99), 5.0)
    assert settings.checkpoint_every == 500
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == ["warning: --sample_batch_size is left out: it has no meaning here."]
    train_dreambooth.main(given)
    assert run_facts(tmp_path / "run")["steps"] == 2
    assert (tmp_path / "run" / "weights" / "unet").is_dir()
    eight = parse(DreamBoothSettings, translate([*given, "--use_8bit_adam"]), "").settings
    assert eight.optim.name == "adamw8bit"


def test_a_lora_command_line(
    base: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = words(LORA, base, plain, tmp_path)
    settings = parse(DreamBoothSettings, translate(given, lora=True), "").settings
    assert settings.lora == Lora(rank=4, alpha=4.0)
    assert (settings.batch, settings.accumulate, settings.seed) == (2, 2, 7)
    assert settings.preview_prompts == ("A photo of sks dog in a bucket",)
    assert (settings.preview_every, settings.preview_seeds) == (3, (0, 1))
    assert settings.prior is None
    warned = capsys.readouterr().err
    assert "--push_to_hub is left out: osteon export" in warned
    assert "--tokenizer_name is left out" in warned
    train_dreambooth_lora.main(given)
    assert len(read_metrics(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "weights" / "pytorch_lora_weights.safetensors").exists()


def test_rank_means_lora_and_epochs_become_steps(base: Path, plain: Path, tmp_path: Path) -> None:
    start = ["--pretrained_model_name_or_path", str(base), "--instance_data_dir", str(plain)]
    given = [*start, "--instance_prompt", "x", "--output_dir", str(tmp_path / "r"), "--rank", "16"]
    more = ["--num_train_epochs", "3", "--mixed_precision", "fp16", "--optim.clip_norm", "2"]
    settings = parse(DreamBoothSettings, translate([*given, *more]), "").settings
    assert settings.lora == Lora(rank=16, alpha=16.0)
    assert settings.steps == 6  # five images in batches of four, three times
    assert settings.optim.lr == 5e-4
    assert settings.optim.clip_norm == 2.0
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "fp16"


def test_our_own_command_line_is_left_alone() -> None:
    own = ["--config", "a.yaml", "--optim.lr=1", "--dry_run"]
    assert translate(own) == own
