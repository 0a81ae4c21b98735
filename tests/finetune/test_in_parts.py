"""Weights, gradients and moments in parts on two processes: FSDP 2 and DeepSpeed's ZeRO 2."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from core.errors import UserError
from core.runs import checkpoints, read_metrics
from core.state import load_state
from finetune.settings import Lora, Token
from finetune.train_dreambooth import clip, train
from tests.finetune.test_train_dreambooth import BUSY, Make, equal, losses_of
from tests.trainers import TWO, launch, run_facts, tensors_of

DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


@pytest.mark.parametrize(
    ("script", "distributed", "compiled"),
    [
        pytest.param("tests/finetune/in_parts.py", "FSDP", False, marks=pytest.mark.slow),
        pytest.param("tests/finetune/in_parts.py", "FSDP", True, marks=pytest.mark.slow),
        pytest.param("tests/finetune/under_zero.py", "DEEPSPEED", False, marks=DEEPSPEED),
    ],
)
def test_weights_in_parts_train_like_whole_ones(
    settings: Make, captioned: Path, tmp_path: Path, script: str, distributed: str, compiled: bool
) -> None:
    """Two processes, taken up once; with everything that looks at the model on the way:
    validation, previews, an average, a kept step."""
    values = BUSY | {"lora": None, "text_encoder": True, "data": str(captioned), "prompt": None}
    values |= {"keep_weights": (2,), "preview_every": 2, "validate_every": 3}
    values |= {"optim": replace(BUSY["optim"], clip_norm=0.05)}  # an eighth of the gradients
    whole = settings(run_dir=str(tmp_path / "whole"), **values)
    train(whole)
    for steps in (3, 4):
        own = values | {"steps": steps, "compile": compiled}
        parts = settings(run_dir=str(tmp_path / "parts"), **own)
        launch(TWO, script, parts)
    facts = [run_facts(tmp_path / name) for name in ("whole", "parts")]
    assert [each["distributed"] for each in facts] == ["NO", distributed]
    assert [each["in_parts"] for each in facts] == [False, distributed == "FSDP"]
    assert losses_of(parts) == pytest.approx(losses_of(whole), rel=1e-4)
    moments, own = (
        load_state(checkpoints(tmp_path / name)[-1])["optimiser"] for name in ("whole", "parts")
    )
    assert own["param_groups"] == moments["param_groups"]
    torch.testing.assert_close(own["state"], moments["state"], atol=1e-6, rtol=1e-3)
    looked = [
        [row["validation_loss"] for row in read_metrics(tmp_path / name) if "similarity" in row]
        for name in ("whole", "parts")
    ]
    assert looked[1][0] == pytest.approx(looked[0][0], rel=1e-4)
    for folder in ("weights", "weights-000002"):
        first, second = (
            load_file(tmp_path / name / folder / "unet/diffusion_pytorch_model.safetensors")
            for name in ("whole", "parts")
        )
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)


@DEEPSPEED
@pytest.mark.slow
def test_under_deepspeed_a_resumed_run_equals_an_unbroken_one(
    settings: Make, captioned: Path, tmp_path: Path
) -> None:
    values = BUSY | {"lora": None, "data": str(captioned), "prompt": "a <ramp>"}
    values |= {"token": Token("<ramp>", "bat"), "text_encoder": True}  # two groups
    for name, steps in (("unbroken", 4), ("broken", 2), ("broken", 4)):
        own = settings(run_dir=str(tmp_path / name), **values | {"steps": steps})
        launch(TWO, "tests/finetune/under_zero.py", own)
    broken, unbroken = (
        tensors_of(checkpoints(tmp_path / name)[-1]) for name in ("broken", "unbroken")
    )
    assert len(broken) > 1000
    assert equal(broken, unbroken)


@pytest.mark.parametrize("way", ["DEEPSPEED", "FSDP"])
def test_other_ways_of_accelerate_are_refused(
    settings: Make, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{way}", "true")
    with pytest.raises(UserError, match=r"multi_gpu\.yaml"):
        train(settings(lora=Lora(rank=2)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"version 2|pip install .*deepspeed"):
        train(settings(lora=None))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_gradient_in_parts_is_unscaled_once(
    monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """fp16 under FSDP, which a processor has not, is put on; the scaler is torch's own. Beside a
    frozen weight accelerate's own clipping fails: it unscales twice."""
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "is_fsdp2", property(lambda self: True))
    fsdp = property(lambda self: DistributedType.FSDP)
    monkeypatch.setattr(Accelerator, "distributed_type", fsdp)
    monkeypatch.setattr(type(accelerator.state), "mixed_precision", "fp16")
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].requires_grad_(not frozen)
    learned = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.SGD(learned)
    accelerator._models, accelerator._optimizers = [model], [optimiser]
    accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu"), True
    accelerator.scaler.scale(model(torch.ones(2, 4)).sum()).backward()
    clip(accelerator, learned, 0.1)
    norm = torch.stack([each.grad.norm() for each in learned]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.1), rtol=1e-4, atol=0)
