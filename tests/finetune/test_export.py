"""What other programs read is what was trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from core.errors import UserError
from finetune.adapters import NAME, adapter_state
from finetune.export import export, main
from finetune.models import open_pipeline
from finetune.settings import DreamBoothSettings, Lora, Optim, Token
from finetune.train_dreambooth import train
from finetune.webui import adapters, merged_weight, state_of, write
from finetune.weights import outputs
from tests.finetune.test_adapters import EVERYWHERE, tuned

Make = Callable[..., DreamBoothSettings]
BOTH = ("attention", "feedforward")


def test_webui_names_and_true_alpha(base: Path, tmp_path: Path) -> None:
    """diffusers reads our file as its own: same modules, same numbers, same alpha."""
    pipeline = tuned(base, Lora(rank=2, alpha=8.0, targets=BOTH), text=True)
    write([pipeline.unet, pipeline.text_encoder], NAME, tmp_path / "x.safetensors", v2=True)
    keys = load_file(tmp_path / "x.safetensors")
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in keys
    assert any(key.startswith("lora_unet_mid_block_attentions_0_transformer") for key in keys)
    assert {float(value) for key, value in keys.items() if key.endswith(".alpha")} == {8.0}
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.load_lora_weights(tmp_path, weight_name="x.safetensors", adapter_name="x")
    for part in ("unet", "text_encoder"):
        own = adapter_state(getattr(pipeline, part), NAME)
        assert own.keys() == adapter_state(getattr(plain, part), "x").keys()
    wanted, got = outputs(pipeline), outputs(plain)
    for name in wanted:
        torch.testing.assert_close(wanted[name], got[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dora", "rslora", "plain"])
def test_every_layer_merges_as_trained(base: Path, tmp_path: Path, kind: str) -> None:
    """Projections and convolutions too, by kohya's own formula against peft's merge."""
    lora = Lora(rank=4, alpha=3.0, targets=EVERYWHERE, kind=kind)
    pipeline = tuned(base, lora, text=True)
    networks = [pipeline.unet, pipeline.text_encoder]
    before = outputs(pipeline)
    write(networks, NAME, tmp_path / "x.safetensors", v2=False)
    assert all(torch.equal(before[k], v) for k, v in outputs(pipeline).items())  # left as it was
    state = {k: v for network in networks for k, v in state_of(network, NAME).items()}
    pipeline.fuse_lora()
    count = 0
    for network, fresh in zip(networks, _networks(base), strict=True):
        bases = dict(fresh.named_modules())
        for (key, layer), path in zip(adapters(network), _paths(network), strict=True):
            got = merged_weight(key, bases[path].weight.detach(), state)
            torch.testing.assert_close(got, layer.get_base_layer().weight, atol=1e-5, rtol=1e-4)
            count += 1
    assert count > 30


def _networks(base: Path) -> list[torch.nn.Module]:
    pipeline = open_pipeline(base)
    return [pipeline.unet, pipeline.text_encoder]


def _paths(network: torch.nn.Module) -> list[str]:
    from peft.tuners.lora import LoraLayer

    return [path for path, layer in network.named_modules() if isinstance(layer, LoraLayer)]


def test_a_run_exports_in_three_ways(settings: Make, capsys: pytest.CaptureFixture) -> None:
    own = settings(
        prompt="a <wing>", token=Token("<wing>", "bat"), text_encoder=True, steps=2,
        lora=Lora(rank=2, alpha=4.0, targets=BOTH), optim=Optim(lr=1e-2),
    )  # fmt: skip
    train(own)
    run = Path(own.run_dir)
    main(["--run", str(run)])
    assert "hf upload" in capsys.readouterr().out
    folder = run / "export"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "diffusers",
        "pipeline",
        "webui",
    ]
    assert (folder / "webui" / "run.safetensors").exists()
    assert (folder / "diffusers" / "learned_embeds.safetensors").exists()
    tokenizer = folder / "pipeline" / "tokenizer"
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= {p.name for p in tokenizer.iterdir()}
    saved = load_file(folder / "pipeline" / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in saved)
    assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {
        torch.float16
    }
    merged = StableDiffusionPipeline.from_pretrained(folder / "pipeline", safety_checker=None)
    assert "<wing>" in merged.tokenizer.get_vocab()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: ")
    for word in ("load_lora_weights", "load_textual_inversion", "| lora.rank | 2 |", "synthetic"):
        assert word in card
    assert str(run.parent) not in card.replace(own.base, "")


def test_whole_networks_export_merged(settings: Make, tmp_path: Path) -> None:
    own = settings(lora=None, steps=1)
    train(own)
    folders = export(Path(own.run_dir), tmp_path / "out")
    assert [folder.name for folder in folders] == ["pipeline"]
    with pytest.raises(UserError, match="no fine-tuned weights"):
        export(tmp_path, tmp_path / "other")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="is no export"):
        export(Path(own.run_dir), tmp_path / "taken")


def test_the_weights_of_a_kept_step_export(settings: Make, tmp_path: Path) -> None:
    own = settings(lora=Lora(rank=2), steps=2, keep_weights=(1,), optim=Optim(lr=1e-2))
    train(own)
    run, out = Path(own.run_dir), tmp_path / "out"
    export(run, out, "1")
    files = [f / "pytorch_lora_weights.safetensors" for f in (out / "diffusers", run / "weights")]
    files.append(run / "weights-000001" / files[0].name)
    exported, newest, kept = (load_file(file) for file in files)
    assert all(torch.equal(exported[key], kept[key]) for key in kept)
    assert any(not torch.equal(exported[key], newest[key]) for key in newest)
    assert "| steps | 1 |" in (out / "README.md").read_text()
    with pytest.raises(UserError, match="'3' should be one of: newest, 1"):
        export(run, out, "3")
