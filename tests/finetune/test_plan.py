"""What a run will take: said before, found so after, and finding out leaves no trace."""

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import core.session
import finetune.cost
import finetune.plan
import finetune.portions
import finetune.train_dreambooth
from core.errors import UserError
from core.files import read_json, write_json
from core.runs import read_metrics
from core.session import Session
from finetune.cost import Looks, Seconds, disk_left, times, tried
from finetune.models import locate
from finetune.plan import memory_needed, say_that_it_tries, warnings
from finetune.rehearsal import empty_denoiser, empty_inputs, empty_pipeline
from finetune.sample import StableDiffusionSampler
from finetune.settings import Concept, DreamBoothSettings, Lora, Optim, Prior, Token
from finetune.train_dreambooth import train
from tests.finetune.tiny import write_images
from tests.trainers import ACCELERATE, ENVIRONMENT, TWO, command, launch, run_facts

SCRIPT = "finetune/train_dreambooth.py"
ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., DreamBoothSettings]


def test_seconds_and_bytes_by_hand(settings: Make) -> None:
    assert [times(every, 10) for every in (0, 3, 5, 20)] == [0, 4, 2, 1]
    own = settings(steps=10, validate_every=5, preview_every=4, keep_weights=(2, 50), lora=None)
    one = Seconds(step=2.0, image=0.5, guess=0.25, measure=3.0, checkpoint=0.1, weights=4.0)
    assert one.parts(own, Looks(sheet=6, held_out=2)) == {
        "steps": 20.0,
        "previews": 9.0,  # three sheets of six
        "validations": 16.0,  # twice two images drawn, eight guesses at each, and the measure
        "saves": 12.5,  # the last, the second's, half of the two best; five checkpoints
    }
    kept = 100 * 12 + 3 * 4 * 120  # weights and moments; the whole base three times
    assert disk_left(own, 100, 120, Looks(6, 2), 8) == kept + (3 * 6 + 2 * 2) * 2 * 64


def test_a_long_step_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to warm up, once to tell; a full-size base on a CPU takes a minute for each."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(finetune.cost.time, "monotonic", lambda: clock.now)
    cpu = torch.device("cpu")

    def work(lasts: list[float]) -> None:
        clock.now += lasts.pop(0)

    lasts = [90.0, 60.0, 50.0, 50.0]
    assert tried(lambda: work(lasts), cpu) == 60
    assert len(lasts) == 2
    lasts = [30.0, 1.0, 3.0, 2.0, 9.0]  # the first compiles
    assert tried(lambda: work(lasts), cpu) == 2
    assert len(lasts) == 1


@pytest.mark.parametrize("bound", ["TRIABLE", "LONG"])
def test_a_large_base_or_batch_on_a_cpu_says_that_it_tries_a_step(
    settings: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bound: str
) -> None:
    for least, said in ((2**40, False), (0, True)):
        monkeypatch.setattr(finetune.plan, bound, least)
        train(settings(steps=1, run_dir=f"{settings().run_dir}-{least}"))
        assert ("Trying a step" in capsys.readouterr().out) is said


def test_a_large_batch_of_the_small_base_is_said_to_be_tried(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of sd2-mini, 8.7 M parameters, 4 images at once take a moment, 80 do not."""
    for images, said in ((4, False), (80, True)):
        say_that_it_tries(8_700_000, torch.zeros(images, 4, 32, 32))
        assert ("Trying a step" in capsys.readouterr().out) is said
    say_that_it_tries(2**40, torch.zeros(1, 4, 8, 8, device="meta"))  # as on a GPU
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_a_run_takes_what_was_planned(settings: Make, captioned: Path) -> None:
    """In a process of its own, with all that a run does; time loosely, for a busy machine."""
    values = {"steps": 12, "batch": 2, "accumulate": 2, "ema_decay": 0.9, "checkpoint_every": 6}
    values |= {"validate_every": 6, "preview_every": 12, "preview_seeds": (0, 1)}
    own = settings(data=str(captioned), prompt=None, lora=None, optim=Optim(lr=1e-4), **values)
    launch(ACCELERATE, SCRIPT, own)
    facts = run_facts(Path(own.run_dir))
    plan, measured = facts["plan"], facts["measured"]
    assert plan["seconds"] == pytest.approx(sum(plan["parts"].values()), abs=0.2)
    assert all(seconds > 0 for seconds in plan["parts"].values())
    assert {*plan["parts"]} == {"steps", "previews", "validations", "saves"}
    assert 1 / 3 < plan["seconds"] / measured["seconds"] < 3
    for name in ("memory_mb", "disk_mb"):
        assert plan[name] == pytest.approx(measured[name], rel=0.25), name


def test_finding_out_leaves_no_trace(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"lora": Lora(rank=2, dropout=0.2), "preview_every": 4, "preview_seeds": (0,)}
    train(settings(**values))
    monkeypatch.setattr(finetune.train_dreambooth, "estimate", lambda *_: {})
    train(settings(**values, run_dir=str(tmp_path / "untried")))
    one, other = (read_metrics(tmp_path / name) for name in ("run", "untried"))
    assert [row["loss"] for row in one] == [row["loss"] for row in other]
    assert not list(tmp_path.glob(".plan-*"))


def test_large_images_are_drawn_a_few_at_once(
    settings: Make, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class images, the try for the plan, validations and previews: never more than two at once."""
    monkeypatch.setattr(finetune.portions, "AT_ONCE", 2 * 32**2)
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    real, drawn = StableDiffusionSampler.__call__, []

    def watched(sampler: Any, seeds: Any, *given: Any, **options: Any) -> Any:
        drawn.append(len(seeds))
        return real(sampler, seeds, *given, **options)

    monkeypatch.setattr(StableDiffusionSampler, "__call__", watched)
    own = settings(
        data=str(captioned), prompt=None, steps=1, validate_every=1, preview_every=1,
        preview_seeds=(0,), prior=Prior("a thing", 3, folder=str(tmp_path / "class")),
    )  # fmt: skip
    train(own)
    assert drawn == [2, 1, 2, 2, 2, 2, 1, 2, 2, 1]


def test_a_resumed_run_keeps_its_highest_memory(settings: Make) -> None:
    own = settings(steps=2)
    train(own)
    file = Path(own.run_dir) / "run.json"
    facts = read_json(file)
    facts["measured"]["memory_mb"] = 10**6
    write_json(file, facts)
    train(settings(steps=4))
    assert run_facts(Path(own.run_dir))["measured"]["memory_mb"] == 10**6
    assert run_facts(Path(own.run_dir))["peak_memory_mb"] == 10**6


def test_half_on_the_cpu_and_parked_before_the_tries(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a card holds neither a float32 UNet nor, in a step, the autoencoder."""
    order: list[Any] = []

    def noted(module: Any, name: str, note: Callable[..., Any]) -> None:
        real = getattr(module, name)

        def call(*given: Any, **named: Any) -> Any:
            order.append(note(*given))
            return real(*given, **named)

        monkeypatch.setattr(module, name, call)

    noted(StableDiffusionPipeline, "to", lambda pipeline, *_: pipeline.unet.dtype)
    noted(finetune.train_dreambooth, "park", lambda *_: "park")
    noted(finetune.train_dreambooth, "estimate", lambda *_: "estimate")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(settings(steps=1, lora=Lora(rank=2)))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert order[:3] == [torch.bfloat16, "park", "estimate"]


def test_no_synchronisation_per_step(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No number is read from the device, and no mask turned into places, between logs."""
    steps: list[list[str]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, call: Any, kinds: Any, given: Any = (), named: Any = None):
            if steps:
                steps[-1].append(str(call))
            return call(*given, **(named or {}))

    real = core.session.seed_everything
    monkeypatch.setattr(
        core.session, "seed_everything", lambda *given: (steps.append([]), real(*given))
    )
    own = settings(
        steps=Session.LOG_EVERY - 1,
        checkpoint_every=0,
        ema_decay=0.9,
        min_snr_gamma=5.0,
        caption_dropout=0.5,
        augment=("mirror", "crop", "light"),
    )
    with Watch():
        train(own)
    steps.pop()  # the last is followed by the end
    assert len(steps) == Session.LOG_EVERY - 2
    for calls in steps:
        assert len(calls) > 100
        assert not [c for c in calls if "_local_scalar_dense" in c or "nonzero" in c]
    assert run_facts(Path(own.run_dir))["augment"] == ["mirror", "crop", "light"]


def test_what_to_beware_of_is_said_at_every_start(
    settings: Make, plain: Path, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of every concept's set, and of settings that do nothing."""
    twice = Path(shutil.copytree(plain, tmp_path / "twice"))
    shutil.copy(twice / "00.png", twice / "05.png")
    own = settings(
        data=str(captioned),
        concepts=(Concept(str(twice), "another"),),
        steps=1,
        keep_weights=(1, 5, 9),
        zero_terminal_snr=True,
        min_snr_gamma=5.0,
        optim=Optim(schedule="cosine", warmup=9),
        tracker="tensorboard",
    )
    found = warnings(own, 32)
    never = "optim.warmup 9 of 1 steps: the learning rate never arrives"
    for words in (
        "keep_weights 5, 9",
        "a weight of 0",
        never,
        f"{twice}, images: ",
        "00.png = 05.png",
    ):
        assert any(words in line for line in found), words
    train(own)
    facts = run_facts(Path(own.run_dir))
    assert facts["warnings"] == [f"Beware: {line}." for line in found]
    assert "00.png = 05.png" in capsys.readouterr().err
    assert list(Path(own.run_dir).rglob("events.out.tfevents.*"))


def test_a_long_caption_is_told_by_us_alone(
    settings: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture,
) -> None:
    """Not by the tokenizer too, in words of indexing errors that do not come."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    own = settings(prompt="far " * 90, steps=1)
    train(own, dry_run=True)
    assert "1 captions are longer than" in capsys.readouterr().out
    train(own)
    assert "1 captions are longer than" in capsys.readouterr().err
    assert "Token indices" not in caplog.text


def test_a_dry_run_counts_class_images_too(
    settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train(settings(prior=Prior("a thing", 60, folder=str(tmp_path / "class"))), dry_run=True)
    assert re.search(r"and before it about \d+ s, to draw 60 class images", capsys.readouterr().out)


def test_a_base_without_weights_is_found_out(settings: Make, base: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(base, tmp_path / "bare"))
    for file in bare.glob("*/*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match="lacks unet"):
        train(settings(base=str(bare)), dry_run=True)


@pytest.mark.parametrize("bound", ["TRIABLE", "ENDLESS"])
def test_large_bases_and_images_are_reckoned_on_a_cpu(
    settings: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, bound: str
) -> None:
    monkeypatch.setattr(finetune.plan, bound, 0)
    own = settings(steps=10**8, text_encoder=True, gradient_checkpointing=True, preview_every=100)
    train(own, dry_run=True)
    printed = capsys.readouterr().out
    assert "hours on this processor, by its operations; not tried" in printed
    hours = float(printed.split("time       about ")[1].split()[0])
    assert hours > 5  # on any processor


def test_memory_counts_the_text_encoder_and_checkpointing(settings: Make, base: Path) -> None:
    place, meta = locate(str(base)), torch.device("meta")

    def passing(**changes: Any) -> int:
        own = settings(**changes)
        denoiser, trained = empty_denoiser(own, empty_pipeline(place), meta)
        inputs = empty_inputs(own, place, denoiser, 32, meta)
        return memory_needed(own, denoiser, inputs, 10**6, len(trained))[1]

    plain = passing()
    assert passing(text_encoder=True) > 1.05 * plain
    assert passing(gradient_checkpointing=True) < 0.5 * plain


def test_prodigy_takes_one_learning_rate(settings: Make) -> None:
    values = {"optim": Optim("prodigy", lr=1.0), "steps": 2}
    with pytest.raises(ValueError, match=r"give token\.lr 1\.0"):
        settings(**values, token=Token("<x>", "ramp"))
    pytest.importorskip("prodigyopt")
    own = settings(**values, token=Token("<x>", "ramp", lr=1.0), prompt="a <x>")
    train(own)
    assert len(read_metrics(Path(own.run_dir))) == 2


@pytest.mark.slow
def test_one_of_two_processes_prints_the_plan(settings: Make) -> None:
    def plan(batch: str) -> subprocess.CompletedProcess:
        words = [*command(SCRIPT, settings()), "--dry_run", "--batch", batch]
        return subprocess.run(
            [sys.executable, "-m", *TWO, *words],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )

    told = plan("4").stdout
    assert told.count("steps      ") == 1
    memory = re.search(r"about (\d+) MB on one process, (\d+) MB on all 2\n", told)
    assert memory
    assert int(memory[2]) == 2 * int(memory[1])
    assert "batch 3 cannot be shared by 2 processes" in plan("3").stderr


@pytest.mark.slow
def test_a_preset_takes_what_was_planned(settings: Make, tmp_path: Path) -> None:
    """Of the embedded base, on a quiet machine: time, memory and disk within a quarter."""
    data = write_images(tmp_path / "set", captions=True)
    own = settings(
        base=str(ROOT / "models/sd2-mini"),
        data=str(data),
        prompt=None,
        steps=60,
        validate_every=30,
        preview_every=30,
        checkpoint_every=20,
        keep_weights=(30,),
        text_encoder=True,
    )
    launch(ACCELERATE, SCRIPT, own)
    facts = run_facts(Path(own.run_dir))
    for name in ("seconds", "memory_mb", "disk_mb"):
        assert facts["plan"][name] == pytest.approx(facts["measured"][name], rel=0.25), name


def test_enlarged_images_and_idle_buckets_are_told(
    settings: Make, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Images of 40 x 36 px, trained at 64; one of 96 x 48, which is as much as one of 67 a side."""
    own = settings(data=str(captioned), prompt=None, size=64)
    train(own, dry_run=True)
    said = capsys.readouterr().out
    assert f"{captioned}, 5 of 5 images are enlarged to 64 px, the smallest from 36" in said
    assert "prompt stands for" not in said
    train(replace(own, size=32, prompt="a ramp"), dry_run=True)
    said = capsys.readouterr().out
    assert "are enlarged" not in said
    assert "such as 'a ramp'; prompt stands for the captions that the images have" in said

    for name, shape in (("wide", (96, 48)), ("square", (64, 64))):
        (tmp_path / name).mkdir()
        Image.new("RGB", shape).save(tmp_path / name / "one.png")

    def told(name: str, buckets: bool) -> str:
        changed = replace(own, data=str(tmp_path / name), prompt="a wing", buckets=buckets)
        return " ".join(warnings(changed, 64))

    assert told("wide", True) == told("square", False) == ""
    assert "1 of 1 images are enlarged to 64 px, the smallest from 48" in told("wide", False)
    assert "square, all images are square, so buckets change nothing" in told("square", True)


def test_compiling_for_every_shape_is_told(settings: Make) -> None:
    told = "compile with buckets: the UNet is compiled anew for each shape"
    for compiled, buckets in ((True, True), (True, False), (False, True)):
        found = warnings(settings(compile=compiled, buckets=buckets), 64)
        assert any(told in line for line in found) == (compiled and buckets)
