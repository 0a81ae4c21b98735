"""An image is its seed; the sampler draws what plain diffusers draws."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from diffusers.configuration_utils import FrozenDict
from diffusers.models.attention_processor import AttnProcessor

from core.cli import ROOT
from core.errors import UserError
from core.families import load_autoencoder, load_sampler
from core.generate import autocast
from core.images import to_array
from core.seeds import image_noise, stream
from finetune.adapters import save_adapters
from finetune.models import locate
from finetune.sample import CARD, SCHEDULERS, StableDiffusionSampler, decode
from finetune.schedules import sampling_scheduler
from finetune.settings import Lora
from tests.finetune.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def sampler(base: Path) -> StableDiffusionSampler:
    return load_sampler(base, "cpu")  # a plain folder is of the family "base"


def difference(one: list, other: list) -> int:
    """Largest, in grey levels."""
    return int(np.abs(to_array(one).astype(int) - to_array(other).astype(int)).max())


def test_images_do_not_depend_on_the_batch(sampler: StableDiffusionSampler) -> None:
    prompts = ["a", "b", "c"]
    for scheduler in SCHEDULERS:
        together = sampler([3, 5, 7], prompts, steps=3, scheduler=scheduler)
        alone = [
            sampler([s], [p], steps=3, scheduler=scheduler)[0]
            for s, p in zip([7, 3], "ca", strict=True)
        ]
        assert difference(alone, [together[2], together[0]]) <= 1, scheduler
    assert difference(sampler([1], ["a"], steps=3), sampler([2], ["a"], steps=3)) > 10


def test_an_image_has_the_sides_that_are_asked_for(base: Path) -> None:
    """Those of plain diffusers; nothing given, or the size itself, is the size trained at."""
    sampler = load_sampler(base, "cpu")
    asked = {"steps": 2, "height": 24, "width": 40}
    (image,) = sampler([3], ["a wing"], **asked)
    assert image.size == (40, 24)
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    noise = image_noise([3], (4, 24 // plain.vae_scale_factor, 40 // plain.vae_scale_factor))
    plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
    (wanted,) = plain(
        "a wing", 24, 40, 2, guidance_scale=sampler.options["guidance"], latents=noise
    ).images
    assert difference([image], [wanted]) <= 1
    size = sampler.size
    alike = [sampler([3], ["a"], steps=2, **more) for more in ({}, {"height": size, "width": size})]
    assert difference(*alike) == 0
    mixed = sampler.mix({3: 1.0}, {"a wing": 1.0}, **asked)
    assert difference([image], [mixed]) <= 1
    for wrong in (25, 4096, 0, -8, "wide", True):
        with pytest.raises(UserError, match=f"width must be a multiple of .*, not {wrong}"):
            sampler([3], ["a"], width=wrong)


def test_latents_are_never_clipped(base: Path, tmp_path: Path) -> None:
    """A base whose own scheduler knows no clipping says nothing of it, and DDIM's default is to."""
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    silent = {"prediction_type", "beta_schedule", "beta_start", "beta_end", "set_alpha_to_one"}
    config = {name: pipeline.scheduler.config[name] for name in silent} | {"steps_offset": 1}
    pipeline.scheduler = PNDMScheduler(**config)
    pipeline.save_pretrained(tmp_path / "base")
    assert "clip" not in (tmp_path / "base/scheduler/scheduler_config.json").read_text()
    asked = {"steps": 3, "guidance": 9.0}
    drawn = [load_sampler(each, "cpu")([1], ["a"], **asked) for each in (base, tmp_path / "base")]
    assert difference(*drawn) == 0


def test_the_larger_the_fewer_are_decoded_at_once() -> None:
    """At most 2**20 pixels, at least one image, and sixteen of the small ones."""
    parts: list[int] = []

    def decoded(latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        parts.append(len(latents))
        return (torch.zeros(len(latents), 3, 1, 1),)

    config = FrozenDict(scaling_factor=1.0, block_out_channels=(8, 8, 8, 8))
    vae = SimpleNamespace(config=config, dtype=torch.float32, decode=decoded)
    for size, count, wanted in [
        (64, 20, [16, 4]),
        (256, 20, [16, 4]),
        (512, 6, [4, 2]),
        (768, 2, [1, 1]),
        (1536, 2, [1, 1]),
    ]:
        parts.clear()
        assert len(decode(vae, torch.zeros(count, 4, size // 8, size // 8), "RGB")) == count
        assert parts == wanted, size


def test_plain_diffusers_draws_the_same(sampler: StableDiffusionSampler, base: Path) -> None:
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
    wanted = plain(
        ["a", "b"],
        negative_prompt=["c", "c"],
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=image_noise([0, 1], (4, 8, 8)),
    ).images
    got = sampler([0, 1], ["a", "b"], steps=4, guidance=3.0, negative="c")
    assert difference(wanted, got) <= 1


def test_noise_on_the_way_is_of_each_images_own_seed(
    sampler: StableDiffusionSampler, base: Path
) -> None:
    """Of an ancestral sampler: as plain diffusers draws it from those generators."""
    plain = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    plain.scheduler = EulerAncestralDiscreteScheduler.from_config(plain.scheduler.config)
    wanted = plain(
        ["a", "a"],
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=image_noise([5, 6], (4, 8, 8)),
        generator=[stream(seed, "sampling") for seed in (5, 6)],
    ).images
    got = sampler([5, 6], ["a", "a"], steps=3, scheduler="euler_a")
    assert difference(wanted, got) <= 1


def test_attention_beyond_fp16s_range_is_not_black(base: Path) -> None:
    """Stable Diffusion 2 at 768: queries times keys exceed 65,504; here by larger weights."""
    sampler = load_sampler(base, "cpu")
    unet = sampler.pipeline.unet
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight *= 1000

    def draw(dtype: str) -> np.ndarray:
        with autocast("cpu", dtype):
            return to_array(sampler([0, 1], ["a", "b"], steps=3)).astype(int)

    whole, half = draw("fp32"), draw("fp16")  # sharp attention tips over: not pixel by pixel
    assert half.mean() == pytest.approx(whole.mean(), rel=0.05)
    assert half.std() == pytest.approx(whole.std(), rel=0.05)
    unet.set_attn_processor(AttnProcessor())  # the way that gives black
    assert not draw("fp16").any()


def test_steps_can_be_watched_and_cancelled(sampler: StableDiffusionSampler) -> None:
    seen = []

    def watch(step: int, total: int, latents: torch.Tensor) -> None:
        seen.append((step, total, sampler.decode(latents)[0].size))
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler([0], ["a"], steps=5, on_step=watch)
    assert seen == [(1, 5, (32, 32)), (2, 5, (32, 32)), (3, 5, (32, 32))]


def test_drawing_leaves_the_pipeline_its_scheduler(sampler: StableDiffusionSampler) -> None:
    """What is saved after a preview is what would be without one."""
    own = sampler.pipeline.scheduler
    sampler([0], ["a"], steps=1, scheduler="euler")
    assert sampler.pipeline.scheduler is own
    with pytest.raises(ZeroDivisionError):
        sampler([0], ["a"], steps=1, on_step=lambda *seen: 1 // 0)
    assert sampler.pipeline.scheduler is own


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_steps_begin_near_pure_noise_and_none_is_taken_twice(name: str, spacing: str) -> None:
    kind = getattr(diffusers, SCHEDULERS[name])
    config = DDIMScheduler(timestep_spacing=spacing, steps_offset=1).config
    for steps in (8, 25, 50, 100, 101, 125, 201, 250, 333, 334, 400, 500, 600, 999, 1000):
        if name == "ddim" and steps in (201, 334, 400, 600):
            instead = {201: "200 or 250", 600: "500 or 1000"}.get(steps, "333 or 500")
            told = f"ddim in {steps} steps covers .* take {instead} steps"
            with pytest.raises(UserError, match=told):
                sampling_scheduler(kind, config, steps)
            continue
        scheduler = sampling_scheduler(kind, config, steps)
        scheduler.set_timesteps(steps)
        taken = scheduler.timesteps.tolist()
        assert len({*taken}) == len(taken) == steps
        assert (950 if steps > 8 and name != "ddim" else 850) < taken[0] < 1000
        assert taken[-1] >= 0


@pytest.mark.slow
def test_many_steps_draw_the_same_by_any_scheduler() -> None:
    """They solve one equation: "dpm++" in 100 leading steps would begin at 901."""
    sampler = load_sampler(ROOT / "models/sd2-mini", "cpu")
    few, many = (
        to_array(sampler([0], ["a chest X-ray"], steps=n, scheduler=name)).astype(int)
        for name, n in (("ddim", 40), ("dpm++", 100))
    )
    assert np.abs(few - many).mean() < 4


@pytest.mark.parametrize(
    "options",
    [
        {"stepz": 3},
        {"steps": "many"},
        {"steps": 0},
        {"steps": 2.5},
        {"steps": 1001},
        {"guidance": float("inf")},
        {"negative": None},
        {"height": 28},  # what this base's autoencoder could, and a pipeline does not
        {"scheduler": "magic"},
        {"loras": {"runs/a": True}},
        {"loras": 0},
        {"loras": []},
    ],
)
def test_bad_options_are_named(sampler: StableDiffusionSampler, options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        sampler([0], ["a"], **options)


@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_a_run_with_adapters(base: Path, tmp_path: Path, kind: Any) -> None:
    """Grey comes back grey; a scale of 0 is the base itself; another base is refused."""
    from tests.finetune.test_adapters import tuned

    run = tmp_path / "run"
    pipeline = tuned(base, Lora(rank=2, alpha=4.0, kind=kind), text=True)
    save_adapters(pipeline.unet, pipeline.text_encoder, run / "weights")
    place = locate(str(base))
    card = {"base": str(base), "revision": None, "base_identity": place.identity, "size": 32,
            "mode": "L", "prompts": ["a chest"]}  # fmt: skip
    (run / "weights" / CARD).write_text(json.dumps(card))
    (run / "run.json").write_text('{"family": "dreambooth", "mode": "L"}')

    sampler = load_sampler(run, "cpu")
    assert sampler.default_prompts == ["a chest"]
    tuned_image = sampler([4], ["x"], steps=3)[0]
    bare = load_sampler(base, "cpu")([4], ["x"], steps=3)[0].convert("L")
    assert tuned_image.mode == "L"
    assert difference([bare], [tuned_image]) > 2
    assert difference([bare], sampler([4], ["x"], steps=3, lora_scale=0.0)) <= 1
    assert difference([tuned_image], sampler([4], ["x"], steps=3)) == 0

    (run / "weights" / CARD).write_text(json.dumps(card | {"base_identity": "other"}))
    with pytest.raises(UserError, match="another"):
        load_sampler(run, "cpu")


def test_epsilon_and_unfinished_runs(tmp_path: Path) -> None:
    tiny_pipeline("epsilon").save_pretrained(tmp_path / "epsilon")
    assert len(load_sampler(tmp_path / "epsilon", "cpu")([0], [""], steps=2)) == 1
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"family": "dreambooth"}')
    with pytest.raises(UserError, match="no weights yet"):
        load_sampler(run, "cpu")


def test_round_trip_is_encode_and_decode(base: Path) -> None:
    codec = load_autoencoder(base, "cpu")
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (3, 16, 16, 3), np.uint8)
    back = codec(colour)
    vae = StableDiffusionPipeline.from_pretrained(base, safety_checker=None).vae
    images = torch.from_numpy(colour).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        wanted = vae.decode(vae.encode(images).latent_dist.mean).sample
    wanted = ((wanted.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(back - wanted).max() <= 1
    assert back.dtype == np.uint8
    assert np.array_equal(codec(colour[1:2]), back[1:2])
    assert codec(colour[..., 0]).shape == (3, 16, 16)  # grey stays grey
