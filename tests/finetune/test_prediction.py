"""The weights themselves say what they predict."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from core.errors import UserError
from finetune.captions import Words
from finetune.encode import Batch
from finetune.models import Denoiser, open_pipeline
from finetune.prediction import check_prediction
from finetune.schedules import end_in_noise, training_scheduler
from finetune.settings import DreamBoothSettings
from finetune.train_dreambooth import train
from tests.finetune.tiny import tiny_pipeline

BASE = Path(__file__).resolve().parents[2] / "models" / "sd2-mini"


def test_a_wrong_prediction_type_is_found_out() -> None:
    pipeline = open_pipeline(BASE)
    prompt = "chest X-ray, PA view, 57-year-old male, cardiomegaly"
    latents = pipeline([prompt] * 4, num_inference_steps=8, output_type="latent").images
    words = Words([prompt], pipeline, trained=False).table[[1] * 4]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(latents, noise, noise, torch.zeros(4, dtype=torch.long), words)
    denoiser, scheduler = Denoiser(pipeline.unet, None), training_scheduler(pipeline)
    found = check_prediction(denoiser, scheduler, batch, "sd2-mini")
    assert found["v_prediction"] > 0.5
    wrong = DDPMScheduler.from_config(scheduler.config, prediction_type="epsilon")
    with pytest.raises(UserError, match=r"says prediction_type epsilon, but .* v_prediction"):
        check_prediction(denoiser, wrong, batch, "sd2-mini")


def test_noise_is_added_by_the_bases_own_schedule() -> None:
    """Not by that which diffusers takes where nothing is said."""
    pipeline = tiny_pipeline("epsilon")
    scheduler = training_scheduler(pipeline)
    assert scheduler.config.prediction_type == "epsilon"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0).float()
    torch.testing.assert_close(scheduler.alphas_cumprod, signal, rtol=1e-4, atol=1e-6)


def test_a_run_on_a_base_that_is_labelled_wrong_never_begins(plain: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(BASE, wrong, copy_function=os.symlink)
    config = wrong / "scheduler" / "scheduler_config.json"
    said = config.read_text().replace("v_prediction", "epsilon")
    config.unlink()
    config.write_text(said)
    run = tmp_path / "run"
    with pytest.raises(UserError, match="its weights predict v_prediction"):
        train(DreamBoothSettings(str(plain), str(run), str(wrong), prompt="a ramp", steps=1))
    assert not run.exists()


@torch.no_grad()
def test_noise_in_images_is_no_sign() -> None:
    pipeline = open_pipeline(BASE)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 64, 64, generator=draw) * 2 - 1
    latents = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
    words = Words(["x"], pipeline, trained=False).table[[1] * 6]
    noise = torch.randn(latents.shape, generator=draw)
    batch = Batch(latents, noise, noise, torch.zeros(6, dtype=torch.long), words)
    denoiser = Denoiser(pipeline.unet, None)
    check_prediction(denoiser, training_scheduler(pipeline), batch, "sd2-mini")


def test_zero_terminal_snr_needs_v_prediction() -> None:
    pipeline = tiny_pipeline("v_prediction")
    end_in_noise(pipeline)
    alphas = training_scheduler(pipeline).alphas_cumprod
    assert alphas[-1].item() == 0.0
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    with pytest.raises(UserError, match="predicts epsilon"):
        end_in_noise(tiny_pipeline("epsilon"))
