"""Settings mixed by chance: whatever is asked for together trains, resumes to the bit, exports and
draws."""

import random
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from core.errors import UserError
from core.generate import generate
from core.runs import checkpoints, kept_weights
from core.session import Session
from finetune.export import export
from finetune.settings import (
    Augmentation,
    Concept,
    DreamBoothSettings,
    Lora,
    Optim,
    Part,
    Prior,
    Token,
)
from finetune.train_dreambooth import train
from tests.finetune.tiny import tiny_pipeline, write_images

WORD = "a <wing> ramp"
PARTS: tuple[Part, ...] = ("attention", "feedforward", "projection", "convolution")
AUGMENTATIONS: tuple[Augmentation, ...] = ("mirror", "crop", "turn", "light")
CHOICES: dict[str, tuple[Any, ...]] = {
    "seed": (0, 7),
    "batch": (1, 2, 4),
    "accumulate": (1, 2),
    "checkpoint_every": (1, 2, 3),
    "checkpoints_kept": (1, 2),
    "prompt": (None, WORD, f"{WORD}, of metal, red"),
    "concepts": (False, False, True),
    "buckets": (False, False, True),
    "caption_dropout": (0.0, 0.3),
    "caption_shuffle": (False, True),
    "text_encoder": (False, True),
    "unet": (True, True, True, False),
    "token": (None, None, Token("<wing>", "b"), Token("<wing>", "ramp hill", vectors=3)),
    "prior": (None, None, Prior("a hill", count=3)),
    "optim": (
        Optim(lr=1e-3),
        Optim(lr=1e-3, schedule="cosine", warmup=2, clip_norm=0.0),
        Optim("schedule_free", lr=1e-3),
        Optim("prodigy", lr=1.0, weight_decay=0.0),
    ),
    "min_snr_gamma": (None, 5.0),
    "noise_offset": (0.0, 0.1),
    "input_perturbation": (0.0, 0.1),
    "timesteps": ("uniform", "logit_normal", "cubic"),
    "zero_terminal_snr": (False, True),
    "ema_decay": (None, 0.5),
    "gradient_checkpointing": (False, False, True),
    "cache_latents": (True, False),
    "validate_every": (0, 2),
    "preview_every": (0, 2),
    "preview_seeds": ((0,),),
    "keep_weights": ((), (2,)),
}
RANDOM_LORA: dict[str, tuple[Any, ...]] = {
    "rank": (1, 4),
    "alpha": (1.0, 4.0, 16.0),
    "dropout": (0.0, 0.2),
    "kind": ("plain", "dora", "rslora"),
}


class Killed(Exception):
    """Between two steps."""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(40))
def test_any_mix_trains_resumes_exports_and_draws(
    number: int, tmp_path: Path, half: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(number)
    settings = mixed(chance, tmp_path)
    precision = random.Random(f"precision {number}").choice(("no", "bf16", "fp16"))
    if precision == "fp16":
        half(2.0**10)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    AcceleratorState._reset_state(reset_partial_state=True)
    whole = replace(settings, run_dir=str(tmp_path / "whole"))
    train(whole)
    killed = chance.choice((2, 3, 4))  # after so many steps
    log = Session.log

    def log_until(session: Session, **values: Any) -> None:
        log(session, **values)
        if session.step + 1 == killed:
            raise Killed

    with mock.patch.object(Session, "log", log_until), pytest.raises(Killed):
        train(settings)
    train(settings)
    run = Path(settings.run_dir)
    one, other = (
        tensors_under(checkpoints(each)[-1]) | tensors_under(each / "weights")
        for each in (run, Path(whole.run_dir))
    )
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
        assert tensor.isfinite().all(), name
    for name in kept_weights(run):
        assert export(run, tmp_path / name, name)
    drawn = generate(run, [0, 1], ["a <wing> ramp", "a hill"], options={"steps": 2})
    assert len([*drawn.glob("*.png")]) == 2


def mixed(chance: random.Random, folder: Path) -> DreamBoothSettings:
    """Settings of five steps; such as may not stand together are drawn again."""
    base, data = folder / "base", folder / "data"
    tiny_pipeline(linear=chance.random() < 0.5).save_pretrained(base)
    write_images(data, mode=chance.choice(("L", "RGB")), captions=True)
    other = Concept(str(write_images(folder / "other", 3)), "a <wing> slope")
    paths = {"data": str(data), "base": str(base), "run_dir": str(folder / "run"), "steps": 5}
    assert CHOICES.keys() <= {field.name for field in fields(DreamBoothSettings)}
    while True:
        values = {name: chance.choice(given) for name, given in CHOICES.items()}
        values["augment"] = tuple(name for name in AUGMENTATIONS if chance.random() < 0.2)
        values["lora"] = random_lora(chance) if chance.random() < 0.7 else None
        values["concepts"] = (other,) if values["concepts"] else ()
        if values["prior"] is not None:
            values["prior"] = replace(values["prior"], folder=str(folder / "class"))
        if values["token"] is not None:
            prodigy = values["optim"].name == "prodigy"
            values["token"] = replace(values["token"], lr=1.0 if prodigy else 1e-3)
        said = values["token"] is None or values["prompt"] is not None
        measured = values["validate_every"] and values["concepts"]  # `other` has no validation
        try:
            settings = DreamBoothSettings(**paths | values)
        except (ValueError, UserError):
            continue
        if said and not measured:
            return settings


def random_lora(chance: random.Random) -> Lora:
    values = {name: chance.choice(given) for name, given in RANDOM_LORA.items()}
    targets = tuple(part for part in PARTS if chance.random() < 0.5)
    return Lora(targets=targets or ("attention",), **values)


def tensors_under(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {
        f"{file.relative_to(folder)} {k}": v for file in files for k, v in load_file(file).items()
    }
