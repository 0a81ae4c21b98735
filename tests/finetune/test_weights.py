"""weights/ is checked as it will be read: eagerly, and in little memory."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune.weights
from core.runs import read_metrics
from finetune.models import locate
from finetune.settings import DreamBoothSettings, Lora
from finetune.train_dreambooth import train
from finetune.weights import write_weights
from tests.finetune.test_adapters import tuned

Make = Callable[..., DreamBoothSettings]


def test_one_base_at_a_time_is_in_memory(
    base: Path, settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Stable Diffusion 2 of 5 GB is opened twice on a machine of 12."""
    real = finetune.weights.open_pipeline
    opened: list[weakref.ref] = []

    def watched(*given: Any, **named: Any) -> Any:
        assert not any(network() for network in opened)
        pipeline = real(*given, **named)
        assert pipeline.vae is None
        opened.extend(map(weakref.ref, (pipeline.unet, pipeline.text_encoder)))
        return pipeline

    monkeypatch.setattr(finetune.weights, "open_pipeline", watched)
    own = settings(lora=Lora(rank=2, targets=("attention", "convolution")), text_encoder=True)
    pipeline = tuned(base, own.lora, text=True)
    write_weights(tmp_path / "weights", pipeline, locate(str(base)), own, {})
    assert len(opened) == 4


def test_only_training_runs_compiled(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled networks round otherwise: neither the check nor previews, of other shapes, go
    that way. Here a compiler that is off by a thousandth."""
    calls = []

    def compiled(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def inexact(*given: Any, **named: Any) -> Any:
            calls.append(given[0].shape)
            return 1.001 * call(*given, **named)

        return inexact

    monkeypatch.setattr(torch, "compile", compiled)
    own = settings(lora=None, compile=True, steps=1, batch=1, preview_every=1, preview_seeds=(0,))
    train(own)
    assert len(read_metrics(Path(own.run_dir))) == 1
    assert (Path(own.run_dir) / "weights" / "unet").is_dir()
    assert set(calls) == {(1, 4, 8, 8)}  # guidance draws by two
