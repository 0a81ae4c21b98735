"""weights/ is checked as it will be read: eagerly, and in little memory."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune.weights
from core.files import read_json, write_json
from core.runs import read_metrics
from finetune.models import locate, open_pipeline
from finetune.networks import save_pipeline
from finetune.new_word import add_word
from finetune.settings import DreamBoothSettings, Lora, Token
from finetune.train_dreambooth import train
from finetune.weights import check_pipeline, on_cpu, outputs, write_weights
from tests.finetune.test_adapters import tuned

Make = Callable[..., DreamBoothSettings]


def test_one_base_at_a_time_is_in_memory(
    base: Path, settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Stable Diffusion 2 of 5 GB is opened twice on a machine of 12. On a CPU what was trained
    lies there as well, and is shared."""
    real = finetune.weights.open_pipeline
    opened: list[weakref.ref] = []
    own = settings(lora=Lora(rank=2, targets=("attention", "convolution")), text_encoder=True)
    trained = tuned(base, own.lora, text=True)

    def watched(*given: Any, **named: Any) -> Any:
        assert not any(network() for network in opened)
        pipeline = real(*given, **named)
        assert pipeline.vae is None
        for name in ("unet", "text_encoder"):
            here = {parameter.data_ptr() for parameter in getattr(trained, name).parameters()}
            assert all(each.data_ptr() in here for each in getattr(pipeline, name).parameters())
        opened.extend(map(weakref.ref, (pipeline.unet, pipeline.text_encoder)))
        return pipeline

    monkeypatch.setattr(finetune.weights, "open_pipeline", watched)
    write_weights(tmp_path / "weights", trained, locate(str(base)), own, {})
    assert len(opened) == 4


def test_only_what_is_whole_and_float32_is_shared(base: Path) -> None:
    """Others are read again: half precision is rounded, and a table with new words is another."""
    trained, plain = open_pipeline(base), open_pipeline(base)
    add_word(trained, Token("<new>", "a"))
    trained.unet.half()
    again = open_pipeline(base, like=trained)
    for name in ("unet", "text_encoder"):
        wanted, got = (getattr(each, name).state_dict() for each in (plain, again))
        assert wanted.keys() == got.keys()
        for key in wanted:
            torch.testing.assert_close(got[key], wanted[key], rtol=0, atol=0)


def test_whole_networks_are_compared_with_their_files(base: Path, tmp_path: Path) -> None:
    """Nothing is held twice, and a number or a setting that came out otherwise is found."""
    pipeline = open_pipeline(base)
    save_pipeline(pipeline, tmp_path)
    check_pipeline(tmp_path, pipeline)
    config = read_json(tmp_path / "unet" / "config.json")
    write_json(tmp_path / "unet" / "config.json", config | {"act_fn": "gelu"})
    with pytest.raises(RuntimeError, match=r"1 of 2 tensors differ, such as prediction"):
        check_pipeline(tmp_path, pipeline)
    write_json(tmp_path / "unet" / "config.json", config)
    for name in ("unet", "vae", "text_encoder"):
        parameter = next(getattr(pipeline, name).parameters())
        kept = parameter.data.clone()
        parameter.data[0] += 1
        with pytest.raises(RuntimeError, match=r"1 of \d+ tensors differ"):
            check_pipeline(tmp_path, pipeline)
        parameter.data.copy_(kept)
    check_pipeline(tmp_path, pipeline)


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


def test_trained_networks_stay_where_they_are(
    base: Path, settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parameter that was on another device for a while has lost the hooks by which several
    processes average its gradient: they would wait for each other, or go apart."""
    moved = []
    real = torch.nn.Module._apply

    def watched(module: torch.nn.Module, *given: Any, **named: Any) -> Any:
        moved.append(module)
        return real(module, *given, **named)

    pipeline = open_pipeline(base)
    pipeline.unet.requires_grad_(True)
    monkeypatch.setattr(torch.nn.Module, "_apply", watched)
    write_weights(tmp_path / "weights", pipeline, locate(str(base)), settings(lora=None), {})
    ours = {id(each) for each in (*pipeline.unet.modules(), *pipeline.text_encoder.modules())}
    assert not ours & {id(module) for module in moved}
    pipeline.to("cpu")
    assert ours <= {id(module) for module in moved}  # that is how it would be seen


def test_the_copy_on_the_cpu_says_the_same_in_the_same_memory(base: Path) -> None:
    pipeline = open_pipeline(base)
    pipeline.unet.requires_grad_(True)
    twin = on_cpu(pipeline)
    for name in ("unet", "text_encoder"):
        own, other = (getattr(each, name).state_dict() for each in (pipeline, twin))
        assert own.keys() == other.keys()
        assert all(own[key].data_ptr() == other[key].data_ptr() for key in own)
        assert not any(each.requires_grad for each in getattr(twin, name).parameters())
    assert all(each.requires_grad for each in pipeline.unet.parameters())
    wanted, got = outputs(pipeline), outputs(twin)
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)
