"""weights/ is checked as it will be read: eagerly, and in little memory."""

import errno
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import finetune.weights
from core.errors import UserError
from core.families import load_sampler
from core.files import read_json, write_json
from core.runs import read_metrics
from finetune.adapters import FILE, save_adapters
from finetune.export import export
from finetune.models import locate, open_pipeline
from finetune.networks import save_pipeline
from finetune.new_word import FILE as WORD
from finetune.new_word import add_word, save_word
from finetune.settings import DreamBoothSettings, Lora, Optim, Token
from finetune.train_dreambooth import train
from finetune.weights import (
    check_pipeline,
    load_adapters,
    on_cpu,
    outputs,
    readable,
    write_weights,
)
from tests.finetune.test_adapters import EVERYWHERE, tuned

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


def lose_the_words_second_vector(text_encoder: Any, token: Token, folder: Path) -> None:
    save_word(text_encoder, token, folder)
    ((name, vectors),) = load_file(folder / WORD).items()
    save_file({name: vectors * torch.tensor([[1.0], [0.0]])}, folder / WORD)


def lose_alpha(unet: Any, text_encoder: Any, folder: Path) -> None:
    save_adapters(unet, text_encoder, folder)
    save_file(load_file(folder / FILE), folder / FILE)


@pytest.mark.parametrize(
    ("saving", "lossy", "changes"),
    [
        ("save_adapters", lose_alpha, {"lora": Lora(rank=2, alpha=16.0)}),
        (
            "save_word",
            lose_the_words_second_vector,
            {"unet": False, "token": Token("<wing>", "bat", vectors=2), "prompt": "a <wing>"},
        ),
    ],
)
def test_what_no_name_and_no_adapter_tells_is_missed(
    settings: Make, monkeypatch: pytest.MonkeyPatch, saving: str, lossy: Any, changes: Any
) -> None:
    """By what the networks say: a run never ends well whose scale or word is not in its files."""
    monkeypatch.setattr(finetune.weights, saving, lossy)
    with pytest.raises(RuntimeError, match="do not load back"):
        train(settings(steps=1, optim=Optim(lr=1e-2), **changes))
    assert not (Path(settings().run_dir) / "weights").exists()


def test_adapters_lie_where_torch_puts_its_own(base: Path, tmp_path: Path) -> None:
    """Mapped from their file, products with them round otherwise on a Zen 5, and a run's weights
    seemed not to load back."""
    own = tuned(base, Lora(rank=3, targets=EVERYWHERE), True)
    save_adapters(own.unet, own.text_encoder, tmp_path)
    pipeline = open_pipeline(base)
    load_adapters(pipeline, tmp_path, "a")
    assert any("lora" in name for name, _ in pipeline.unet.named_parameters())
    for network in (pipeline.unet, pipeline.text_encoder):
        assert all(parameter.data_ptr() % 64 == 0 for parameter in network.parameters())


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


def test_damaged_weights_are_one_sentence(settings: Make, tmp_path: Path) -> None:
    """Half copied, or named after another file; by whatever is asked of them."""
    word = {"token": Token("<wing>", "bat"), "prompt": "a <wing>"}
    own = settings(lora=Lora(rank=2), steps=2, keep_weights=(1,), **word)
    train(own)
    run, out = Path(own.run_dir), tmp_path / "out"
    card = read_json(run / "weights" / "osteon.json")
    damage = {
        "pytorch_lora_weights.safetensors": [None],
        "learned_embeds.safetensors": [None, b""],
        "osteon.json": [b"{}", b"[]", b'{"size": 32}', b'{"base": 3, "base_identity": "x"}'],
    }
    for name, contents in damage.items():
        file = run / "weights" / name
        whole = file.read_bytes()
        for content in contents:
            file.write_bytes(whole[: len(whole) // 2] if content is None else content)
            for use in (lambda: export(run, out), lambda: load_sampler(run, "cpu")):
                with pytest.raises(UserError, match=rf"{name}.*train the run") as refused:
                    use()
                assert len(str(refused.value).splitlines()) == 1
            file.write_bytes(whole)
    assert not list(tmp_path.glob("*out*"))
    write_json(run / "weights" / "osteon.json", {k: card[k] for k in card if k != "revision"})
    assert load_sampler(run, "cpu").default_prompts == ["a <wing>"]


def test_damaged_adapters_are_neither_picked_nor_mixed_in(settings: Make) -> None:
    own = settings(lora=Lora(rank=2), steps=2, keep_weights=(1,))
    train(own)
    run = Path(own.run_dir)
    sampler = load_sampler(run, "cpu")
    file = run / "weights-000001" / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"weights-000001.*is damaged"):
        sampler([0], ["a ramp"], steps=1, weights=1)
    sampler([0], ["a ramp"], steps=1, weights=2)


def test_what_the_disk_refuses_is_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), readable(tmp_path):
        raise PermissionError(errno.EACCES, "denied", "x")
