"""Held-out images: the same question every time, and the best weights kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import finetune.portions
from core.errors import UserError
from core.families import FAMILIES, load_sampler
from core.files import read_json
from core.images import list_images, png_text
from core.runs import Run, read_metrics
from core.sets import open_set
from finetune.adapters import FILE, adapter_state
from finetune.blend import name_of
from finetune.losses import denoising_loss, target
from finetune.models import Denoiser, open_pipeline
from finetune.optimisers import build_optimiser
from finetune.sample import SCHEDULERS, StableDiffusionSampler
from finetune.schedules import training_scheduler
from finetune.settings import Concept, DreamBoothSettings, Lora, Optim
from finetune.subjects import held_out_subject
from finetune.train_dreambooth import train
from finetune.trained import as_sampled, freeze, groups
from finetune.validation import TIMESTEPS, HeldOut, better, reason
from tests.finetune.tiny import write_images
from tests.trainers import run_facts

Make = Callable[..., DreamBoothSettings]


def test_the_loss_is_the_same_each_time_and_by_hand(
    settings: Make, base: Path, captioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(data=str(captioned), prompt=None, augment=("crop", "light"))  # only in training
    pipeline = open_pipeline(base)
    scheduler = training_scheduler(pipeline)
    train_set, alone = open_set(captioned), Accelerator(cpu=True)
    held_out = HeldOut(held_out_subject(own), train_set, pipeline, 32, own, alone)
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder)
    first = held_out.loss(denoiser, scheduler)
    torch.rand(7)
    assert torch.equal(held_out.loss(denoiser, scheduler), first)

    from core.seeds import stream

    errors = []
    for place in range(TIMESTEPS):
        noise = torch.randn((5, 4, 8, 8), generator=stream(0, "validation", place))
        timesteps = torch.full((5,), int((place + 0.5) * 1000 / TIMESTEPS))
        latents = held_out.latents.cache[:, 0, 0] * pipeline.vae.config.scaling_factor
        with torch.no_grad():
            noisy = scheduler.add_noise(latents, noise, timesteps)
            guess = denoiser(noisy, timesteps, held_out.words.table[1:])
        errors.append(denoising_loss(guess, target(scheduler, latents, noise, timesteps)).mean())
    torch.testing.assert_close(first, torch.stack(errors).mean())

    # However many images memory has room for
    monkeypatch.setattr(finetune.portions, "AT_ONCE", 2 * 32**2)
    torch.testing.assert_close(held_out.loss(denoiser, scheduler), first)


def test_the_best_weights_are_kept_and_the_reason_said(
    settings: Make, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    values = {"data": str(captioned), "prompt": None, "ema_decay": 0.9, "checkpoint_every": 2}
    values |= {"lora": Lora(rank=2, dropout=0.2), "optim": Optim(lr=1e-2), "validate_every": 2}
    own = settings(**values)
    train(own)
    run = Path(own.run_dir)
    rows = [row for row in read_metrics(run) if "validation_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert all({"similarity", "copies", "loss"} <= row.keys() for row in rows)
    facts = run_facts(run)
    assert facts["best"] == json.loads((run / "best" / "score.json").read_text())
    assert facts["best"]["step"] in (2, 4)
    assert "weights" in facts["best_reason"]
    assert (run / "best" / "pytorch_lora_weights.safetensors").exists()
    assert len(list_images(run / "validation" / "step-000004")) == 5
    assert facts["plan"]["parts"]["validations"] > 0

    sampler = load_sampler(run, "cpu")
    assert sampler.options["weights"] == "newest"
    for name in sampler.options:
        assert f"--{name} " in FAMILIES["dreambooth"].options
    for name in SCHEDULERS:
        assert name in FAMILIES["dreambooth"].options
    wanted = {"newest": "weights", "best": "best"}
    for name in ("best", "newest"):
        sampler([0], ["a ramp"], steps=2, weights=name)
        own = load_file(run / wanted[name] / "pytorch_lora_weights.safetensors")
        held = adapter_state(sampler.pipeline.unet, name_of(0))
        assert all(torch.equal(held[key], own[f"unet.{key}"]) for key in held)
    with pytest.raises(UserError, match="newest, best"):
        sampler([0], ["a ramp"], steps=2, weights="first")

    # Looking changes nothing: the same weights without it
    blind = settings(**values | {"validate_every": 0, "run_dir": str(tmp_path / "blind")})
    train(blind)
    assert [row["loss"] for row in read_metrics(run)] == [
        row["loss"] for row in read_metrics(tmp_path / "blind")
    ]


def test_few_copies_come_before_likeness() -> None:
    plain = {"step": 2, "similarity": 0.5, "copies": 0.0}
    near = {"step": 4, "similarity": 0.7, "copies": 0.1}
    copied = {"step": 6, "similarity": 0.9, "copies": 0.5}
    assert better(plain, None)
    assert better(near, plain)
    assert not better(copied, near)
    assert better(plain, copied)
    assert not better(near | {"copies": 0.11}, plain)  # one in ten may come near by chance
    assert reason(near, copied) == (
        "The best weights are those of step 4, in best/: fewer copies of training images "
        "(similarity to held-out images 0.700, copies 10%; 0.900, 50% at step 6)."
    )
    assert "in best/: nearer to the held-out images (" in reason(near, plain | {"step": 6})
    assert reason(near, near).startswith("The last weights are the best measured: few copies first")


def test_the_same_weights_draw_the_same_at_every_step(
    settings: Make, base: Path, captioned: Path, tmp_path: Path
) -> None:
    own, pipeline = settings(data=str(captioned), prompt=None), open_pipeline(base)
    train_set, alone = open_set(captioned), Accelerator(cpu=True)
    held_out = HeldOut(held_out_subject(own), train_set, pipeline, 32, own, alone)
    sampler = StableDiffusionSampler(pipeline, 32)
    sampler.options["steps"] = 2
    first, second = (held_out.draw(sampler, Run(tmp_path), step) for step in (10, 20))
    files = [[path.read_bytes() for path in drawn.paths] for drawn in (first, second)]
    assert files[0] == files[1]
    assert len({*files[0]}) == 5
    assert [png_text(path)["prompt"] for path in first.paths] == held_out.captions


@torch.no_grad()
def test_what_is_looked_at_has_no_dropout(settings: Make, base: Path) -> None:
    """Neither in scores nor in drawn images; what is trained has it again."""
    own = settings(lora=Lora(rank=2, dropout=0.5))
    whole = Denoiser(open_pipeline(base).unet, None)
    trained = freeze(whole, own)
    for parameter in trained.parameters.values():
        parameter.normal_()
    optimiser = build_optimiser(groups(trained, own), own.optim, torch.device("cpu"))
    given = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 77, 32)
    whole.train()
    assert not torch.equal(whole(*given), whole(*given))
    with as_sampled(trained, None, optimiser, whole):
        assert torch.equal(whole(*given), whole(*given))
    assert not torch.equal(whole(*given), whole(*given))


def test_weights_that_score_worse_leave_the_best_where_they_are(
    settings: Make, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three steps the second, and so it is said."""
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    found = iter([0.5, 0.7, 0.6])
    score = lambda *given: {"similarity": next(found), "copies": 0.0}  # noqa: E731
    monkeypatch.setattr(HeldOut, "scores", score)
    values = {"data": str(captioned), "prompt": None, "steps": 3, "validate_every": 1}
    own = settings(**values, lora=Lora(rank=2), optim=Optim(lr=1e-2))
    train(own)
    run = Path(own.run_dir)
    assert read_json(run / "best" / "score.json") == {"similarity": 0.7, "copies": 0.0, "step": 2}
    assert run_facts(run)["best_reason"].startswith("The best weights are those of step 2")
    assert (run / "best" / FILE).read_bytes() != (run / "weights" / FILE).read_bytes()


def test_held_out_images_are_of_every_concept(
    settings: Make, base: Path, captioned: Path, tmp_path: Path
) -> None:
    """Of many, some of each set; the set without any gives none."""
    other = write_images(tmp_path / "other", 40, captions=True)
    own = settings(concepts=(Concept(str(captioned)), Concept(str(other), "another")))
    unseen = held_out_subject(own)
    assert len(unseen) == 45
    assert unseen.captions[:5] == [f"a ramp, number {n}" for n in range(5)]
    held_out = HeldOut(
        unseen, open_set(captioned), open_pipeline(base), 32, own, Accelerator(cpu=True)
    )
    assert len(held_out.captions) == len(held_out.images) == 16
    assert held_out.captions.count("another") > 10
    assert {path.parents[1].name for path in held_out.images.paths} == {captioned.name, "other"}
    assert held_out.images.paths[-1] == unseen.images.paths[42]


def test_without_validation_images_it_is_refused(settings: Make, captioned: Path) -> None:
    with pytest.raises(UserError, match="has none"):
        train(settings(validate_every=2))
    learned = settings(data=f"{captioned}:validation", prompt=None)
    with pytest.raises(UserError, match="has none"):  # besides those that are learned from
        held_out_subject(learned)


def test_a_split_by_name_has_validation_images_too(settings: Make, captioned: Path) -> None:
    one, other = (
        held_out_subject(settings(data=f"{captioned}{split}", prompt=None))
        for split in ("", ":train")
    )
    assert one.images.paths == other.images.paths
    assert {path.parent.name for path in one.images.paths} == {"validation"}
