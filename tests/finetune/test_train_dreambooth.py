"""The real script: trains, resumes exactly, and leaves weights that plain diffusers loads."""

import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import core.session
import finetune.attention
import finetune.train_dreambooth
import finetune.weights
from core.errors import UserError
from core.families import load_sampler
from core.files import read_json
from core.images import png_text
from core.runs import checkpoints, read_metrics
from finetune.settings import Concept, DreamBoothSettings, Lora, Optim, Prior
from finetune.subjects import instance_subject
from finetune.train_dreambooth import train
from tests.finetune.tiny import write_images
from tests.trainers import (
    ACCELERATE,
    TWO,
    check_broken_equals_unbroken,
    check_killed_equals_unbroken,
    check_scaler_goes_on,
    dies,
    launch,
    run_facts,
)

SCRIPT = "finetune/train_dreambooth.py"
LORA_FILE = "pytorch_lora_weights.safetensors"
Make = Callable[..., DreamBoothSettings]
BUSY = {
    "lora": Lora(rank=2, alpha=4.0, dropout=0.1),
    "batch": 4,
    "accumulate": 2,
    "ema_decay": 0.9,
    "min_snr_gamma": 5.0,
    "noise_offset": 0.1,
    "caption_dropout": 0.5,
    "optim": Optim(lr=1e-3, schedule="constant_with_warmup", warmup=3),
}
"""Everything that could go wrong on resuming, at once."""


def weights_of(settings: DreamBoothSettings) -> dict[str, torch.Tensor]:
    folder = Path(settings.run_dir) / "weights"
    return load_file(
        folder / LORA_FILE if settings.lora else folder / "unet/diffusion_pytorch_model.safetensors"
    )


def losses_of(settings: DreamBoothSettings) -> list[float]:
    return [row["loss"] for row in read_metrics(Path(settings.run_dir))]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def log_of(settings: DreamBoothSettings) -> str:
    return (Path(settings.run_dir) / "log.txt").read_text()


def test_lora_with_prior_through_accelerate(settings: Make, tmp_path: Path, base: Path) -> None:
    own = settings(
        prior=Prior("a thing", count=3, folder=str(tmp_path / "class")),
        text_encoder=True,
        gradient_checkpointing=True,
        preview_every=2,
        preview_seeds=(0, 1),
    )
    launch([*ACCELERATE, "--mixed_precision", "bf16"], SCRIPT, own)
    run = Path(own.run_dir)
    assert len(losses_of(own)) == 4
    assert len(list((tmp_path / "class").glob("*.png"))) == 3
    sheet = Image.open(run / "previews" / "step-000004.png")
    assert sheet.size == (2 * 32 + 2, 32)
    assert "synthetic" in png_text(run / "previews" / "step-000002.png")
    facts = run_facts(run)
    assert (facts["status"], facts["steps"], facts["precision"]) == ("finished", 4, "bf16")
    assert facts["prediction_type"] == "v_prediction"
    saved = weights_of(own)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert any(key.startswith("text_encoder.text_model.") for key in saved)
    assert all(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)

    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.load_lora_weights(run / "weights")
    assert f"In diffusers: pipeline.load_lora_weights('{run / 'weights'}')\n" in log_of(own)
    assert load_sampler(run, "cpu").default_prompts == ["a ramp"]


def test_all_weights(settings: Make, base: Path, captioned: Path) -> None:
    own = settings(lora=None, data=str(captioned), prompt=None, optim=Optim(lr=1e-3), batch=2)
    train(own)
    folder = Path(own.run_dir) / "weights"
    assert f"In diffusers: StableDiffusionPipeline.from_pretrained('{folder}')\n" in log_of(own)
    tuned = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    start = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    changed = [
        not torch.equal(a, b)
        for a, b in zip(tuned.unet.parameters(), start.unet.parameters(), strict=True)
    ]
    assert all(changed)
    for part in ("vae", "text_encoder"):
        assert equal(getattr(tuned, part).state_dict(), getattr(start, part).state_dict())
    assert (folder / "tokenizer" / "merges.txt").exists()
    half = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    image = load_sampler(Path(own.run_dir), "cpu")([0], ["a ramp"], steps=2)[0]
    assert image.mode == "L"


@pytest.mark.slow  # quicker ones are killed at the worst moment, below
def test_a_killed_run_ends_with_the_same_bits(settings: Make, tmp_path: Path) -> None:
    prior = Prior("a thing", count=2, folder=str(tmp_path / "class"))
    own = settings(prior=prior, checkpoint_every=3, **BUSY)
    check_broken_equals_unbroken(SCRIPT, train, own, tmp_path)


@pytest.mark.parametrize(
    ("lora", "validate_every"),
    [
        (Lora(rank=2), 0),
        pytest.param(Lora(rank=2), 2, marks=pytest.mark.slow),  # half draws slowly on a CPU
        pytest.param(None, 2, marks=pytest.mark.slow),
    ],
)
def test_fp16_with_its_scaler(
    settings: Make,
    captioned: Path,
    tmp_path: Path,
    half: Callable[[float], None],
    lora: Lora | None,
    validate_every: int,
) -> None:
    """Clipping, accumulation, a text encoder, a look at held-out images on the way; the loss is
    about that of fp32."""
    values = BUSY | {"lora": lora, "text_encoder": True, "validate_every": validate_every}
    values |= {"optim": replace(BUSY["optim"], clip_norm=0.05)}
    own = settings(data=str(captioned), prompt=None, **values)
    train(replace(own, steps=1, validate_every=0))
    check_scaler_goes_on(train, own, tmp_path, half, high=2.0**28)
    rows = read_metrics(tmp_path / "unbroken")
    assert rows[0]["loss"] == pytest.approx(losses_of(own)[0], rel=1e-3)
    assert np.isfinite([row["loss"] for row in rows]).all()
    assert all(np.isfinite(row["validation_loss"]) for row in rows[1::2] if validate_every)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["step", "checkpoint"])
def test_two_processes_killed_end_the_same(settings: Make, tmp_path: Path, moment: str) -> None:
    prior = Prior("a thing", count=2, folder=str(tmp_path / "class"))
    own = settings(prior=prior, **BUSY | {"checkpoint_every": 1, "checkpoints_kept": 3})
    check_killed_equals_unbroken(SCRIPT, own, tmp_path, processes=2, moment=moment)


@pytest.mark.parametrize("where", ["in a step", "in a save"])
def test_killed_at_the_worst_moment(settings: Make, tmp_path: Path, where: str) -> None:
    """kill -9 between two pieces of a step, or with half a checkpoint written."""
    values = BUSY | {"prior": Prior("a thing", count=2, folder=str(tmp_path / "class"))}
    unbroken = settings(run_dir=str(tmp_path / "unbroken"), **values)
    train(unbroken)
    broken = settings(run_dir=str(tmp_path / "broken"), **values)
    dies(train_armed, broken, where)
    run = Path(broken.run_dir)
    assert [path.name for path in checkpoints(run)] == ["step-000002"]
    assert len(list((run / "checkpoints").glob(".step-000004.*"))) == (where == "in a save")
    train(broken)
    assert equal(weights_of(broken), weights_of(unbroken))
    assert losses_of(broken) == losses_of(unbroken)


def train_armed(settings: DreamBoothSettings, where: str) -> None:
    torch.set_num_threads(1)
    arm(where)
    train(settings)


def arm(where: str) -> None:
    """This process will kill itself in its fourth step, or in its second save."""
    calls = [0]

    def dying(module: Any, name: str, last: int) -> None:
        real = getattr(module, name)

        def call(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == last:
                if name == "save_state":
                    (given[1] / "state.safetensors").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        setattr(module, name, call)

    if where == "in a save":
        dying(core.session, "save_state", 2)
    else:  # two pieces a step, and four tries beforehand
        dying(finetune.train_dreambooth, "loss_of", 4 + 2 * 3 + 2)


def test_more_steps_go_on_from_the_last(settings: Make, tmp_path: Path) -> None:
    unbroken = settings(run_dir=str(tmp_path / "unbroken"), **BUSY | {"steps": 5})
    train(unbroken)
    for steps in (3, 5):
        broken = settings(run_dir=str(tmp_path / "broken"), **BUSY | {"steps": steps})
        train(broken)
    assert equal(weights_of(broken), weights_of(unbroken))
    rows = read_metrics(tmp_path / "broken")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in rows] == losses_of(unbroken)
    assert [row["lr"] for row in rows] == pytest.approx([0, 1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])
    assert "jumps" not in (tmp_path / "broken" / "log.txt").read_text()


def test_a_finished_cosine_goes_on_at_the_new_rate(settings: Make) -> None:
    """Not by one more step at the old one, which had come to nothing."""
    optim = Optim(lr=1e-3, schedule="cosine")
    for steps in (3, 6):
        own = settings(steps=steps, optim=optim)
        train(own)
    rows = read_metrics(Path(own.run_dir))
    rates = [1e-3 * (1 + math.cos(math.pi * step / 6)) / 2 for step in (3, 4, 5)]
    assert [row["lr"] for row in rows[3:]] == pytest.approx(rates)
    log = (Path(own.run_dir) / "log.txt").read_text()
    assert "jumps from 0 to 0.0005 at step 3" in log


def test_two_processes_train_like_one(settings: Make, tmp_path: Path) -> None:
    values = BUSY | {"lora": Lora(rank=2), "steps": 3}
    prior = Prior("a thing", count=3, folder=str(tmp_path / "class"))
    one = settings(run_dir=str(tmp_path / "one"), prior=prior, **values)
    train(one)
    two = settings(run_dir=str(tmp_path / "two"), prior=prior, **values)
    launch(TWO, SCRIPT, two)
    assert run_facts(tmp_path / "two")["processes"] == 2
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-4)
    first, second = weights_of(one), weights_of(two)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)


@pytest.mark.slow  # a minute of compiling
@pytest.mark.parametrize(
    ("lora", "few"),
    [(Lora(rank=2), 512), (Lora(rank=2), 0), (None, 512)],
    ids=["LoRA", "LoRA, many positions", "every weight"],
)
def test_a_compiled_unet_trains_alike(
    settings: Make,
    tmp_path: Path,
    lora: Lora | None,
    few: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetune.attention, "FEW", few)
    own = [
        settings(run_dir=str(tmp_path / str(compiled)), lora=lora, compile=compiled)
        for compiled in (False, True)
    ]
    for each in own:
        train(each)
    assert losses_of(own[1]) == pytest.approx(losses_of(own[0]), rel=1e-4)
    first, second = map(weights_of, own)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)


def test_epsilon_base_and_min_snr_weight(settings: Make, tmp_path: Path) -> None:
    """A weight of 1 everywhere is no weight: gamma above every ratio, epsilon prediction."""
    from tests.finetune.tiny import tiny_pipeline

    tiny_pipeline("epsilon").save_pretrained(tmp_path / "epsilon")
    own = [
        settings(
            base=str(tmp_path / "epsilon"),
            steps=2,
            run_dir=str(tmp_path / str(gamma)),
            min_snr_gamma=gamma,
        )
        for gamma in (None, 1e9, 1e-3)
    ]
    for each in own:
        train(each)
    assert losses_of(own[0]) == pytest.approx(losses_of(own[1]))
    assert losses_of(own[2])[0] < 0.5 * losses_of(own[0])[0]


def test_weights_that_do_not_read_back_are_refused(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that lacks one layer loads with a warning at most; here the run says so and ends."""
    real = finetune.weights.save_adapters

    def lossy(unet: Any, text_encoder: Any, folder: Path) -> None:
        real(unet, text_encoder, folder)
        with safe_open(folder / LORA_FILE, "pt") as file:
            metadata = file.metadata()
        state = load_file(folder / LORA_FILE)
        del state[next(iter(state))]
        save_file(state, folder / LORA_FILE, metadata)

    monkeypatch.setattr(finetune.weights, "save_adapters", lossy)
    own = settings(steps=2)
    with pytest.raises(RuntimeError, match="do not load back"):
        train(own)
    assert not (Path(own.run_dir) / "weights").exists()
    assert checkpoints(Path(own.run_dir))


def test_a_disk_that_spoils_whole_networks_costs_no_checkpoint(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = finetune.weights.save_pipeline

    def spoiled(pipeline: Any, folder: Path) -> None:
        real(pipeline, folder)
        (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"nothing")

    monkeypatch.setattr(finetune.weights, "save_pipeline", spoiled)
    own = settings(lora=None, steps=1)
    with pytest.raises(RuntimeError, match=r"do not load back.*unet/ cannot be read"):
        train(own)
    assert not (Path(own.run_dir) / "weights").exists()
    assert checkpoints(Path(own.run_dir))


def test_several_concepts_share_a_run(settings: Make, plain: Path, captioned: Path) -> None:
    """Each about as often, however many images it has; each with its own prompt or captions."""
    concept = Concept(str(captioned))
    subject = instance_subject(settings(concepts=(concept, Concept(str(plain), "another"))))
    assert len(subject) == 15
    assert subject.captions.count("a ramp") == subject.captions.count("another") == 5
    assert "a ramp, number 3" in subject.captions
    own = settings(concepts=(concept,), steps=2, zero_terminal_snr=True, input_perturbation=0.1)
    train(own)
    facts = run_facts(Path(own.run_dir))
    assert facts["data"] == "plain + grey:train"
    assert facts["augment"] == []
    sampler = load_sampler(Path(own.run_dir), "cpu")
    assert sampler.pipeline.scheduler.config.rescale_betas_zero_snr
    assert sampler.default_prompts[0] == "a ramp"
    moved = Path(shutil.copytree(captioned.parent, Path(own.run_dir).parent / "moved"))
    moved = moved / captioned.name
    with pytest.raises(UserError, match=r"concepts\.0\.prompt: None -> b"):
        train(replace(own, concepts=(Concept(str(moved), "b"),), steps=3))
    train(replace(own, concepts=(Concept(str(moved)),), steps=3))
    assert run_facts(Path(own.run_dir))["steps"] == 3
    few = write_images(Path(own.run_dir).parent / "few", 2)
    uneven = instance_subject(settings(concepts=(Concept(str(few), "few"),)))
    assert uneven.captions.count("few") == 4


def train_until_the_best(settings: DreamBoothSettings) -> None:
    real = os.replace

    def dying(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target).name == "best":
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying  # type: ignore[assignment]
    train(settings)


def test_the_best_weights_never_lie_without_their_score(
    settings: Make, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies as soon as best/ has its name."""
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    own = settings(data=str(captioned), prompt=None, validate_every=2)
    dies(train_until_the_best, own)
    best = read_json(Path(own.run_dir) / "best" / "score.json")
    assert best["step"] == 2
    assert {"similarity", "copies"} <= best.keys()
