"""What the loop draws from: a function of seed and step, the same with and without caches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from core.sets import open_set
from finetune.augment import NUMBERS, vary
from finetune.captions import ORDERS, Words, orders
from finetune.encode import Latents, Source, draw, spread
from finetune.models import open_pipeline
from finetune.settings import DreamBoothSettings
from finetune.subjects import Subject, instance_subject

Make = Callable[..., DreamBoothSettings]
SHAPE = (4, 8, 8)


def test_draws_are_a_function_of_seed_and_step(settings: Make) -> None:
    first = draw(settings(), "instance", 3, SHAPE, 1000)
    again = draw(settings(), "instance", 3, SHAPE, 1000)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (
        draw(settings(), "instance", 4, SHAPE, 1000),
        draw(settings(), "class", 3, SHAPE, 1000),
        draw(settings(seed=1), "instance", 3, SHAPE, 1000),
    ):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.timesteps, other.timesteps)


def test_timesteps_are_uniform_and_stratified(settings: Make) -> None:
    drawn = torch.stack([draw(settings(), "x", s, SHAPE, 1000).timesteps for s in range(500)])
    assert ((drawn // 250) == torch.arange(4)).all()  # one in each quarter
    assert drawn.min() < 10
    assert drawn.max() > 990
    assert drawn.float().mean().item() == pytest.approx(499.5, abs=5)


def test_noise_offset_and_shares(settings: Make) -> None:
    own = settings(noise_offset=0.5, caption_dropout=0.25, batch=16)
    drawn = [draw(own, "x", step, (4, 1, 1), 1000) for step in range(200)]
    noise = torch.cat([d.noise for d in drawn])
    assert noise.std().item() == pytest.approx(1.25**0.5, rel=0.02)
    assert all(d.added is d.noise for d in drawn)
    assert torch.cat([d.silent for d in drawn]).float().mean().item() == pytest.approx(
        0.25, abs=0.03
    )


def test_timesteps_may_gather_where_they_are_wanted(settings: Make) -> None:
    """Quantiles of the two distributions, by hand; still one in each of B equal parts."""
    uniform = torch.tensor([0.158655, 0.5, 0.841345], dtype=torch.float64)
    middle = spread(uniform, "logit_normal")  # sigmoid of -1, 0, 1
    torch.testing.assert_close(
        middle, torch.tensor([-1.0, 0.0, 1.0]).double().sigmoid(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(spread(uniform, "cubic"), 1 - uniform**3)
    own = [settings(timesteps=kind, batch=64) for kind in ("uniform", "logit_normal", "cubic")]
    drawn = [draw(each, "x", 0, (4, 1, 1), 1000).timesteps.float() for each in own]
    assert drawn[1].std() < 0.8 * drawn[0].std()
    assert drawn[2].mean() > 1.4 * drawn[0].mean()
    assert all(each.min() >= 0 and each.max() <= 999 for each in drawn)


def test_input_perturbation_is_not_asked_for(settings: Make) -> None:
    plain = draw(settings(batch=64), "x", 0, SHAPE, 1000)
    own = draw(settings(batch=64, input_perturbation=0.1), "x", 0, SHAPE, 1000)
    assert torch.equal(own.noise, plain.noise)
    assert (own.added - own.noise).std().item() == pytest.approx(0.1, rel=0.05)


def test_shuffled_captions_keep_their_first_part(base: Path) -> None:
    caption = "chest X-ray, PA view, 57-year-old male, effusion"
    found = orders(caption, shuffle=True)
    assert found == orders(caption, shuffle=True)
    assert len(found) == ORDERS
    assert len(set(found)) > 3
    assert all(text.startswith("chest X-ray, ") for text in found)
    assert all(sorted(text.split(", ")) == sorted(caption.split(", ")) for text in found)
    assert orders(caption, shuffle=False) == [caption]
    assert orders("one, two", shuffle=True) == ["one, two"]
    for few in ("", ",", "a, b,", "1,000 birds, a flock"):
        assert orders(few, shuffle=True) == [few]
    tags = orders("a,b,c,1,000 birds", shuffle=True)
    assert len(tags) == ORDERS
    assert len(set(tags)) > 3
    assert all(sorted(t.split(", ")) == ["1,000 birds", "a", "b", "c"] for t in tags[1:])

    pipeline = open_pipeline(base)
    words = Words(["alone", caption], pipeline, trained=True, shuffle=True)
    assert words.table.shape == (2 + ORDERS, 77)
    silent = torch.zeros(4, dtype=torch.bool)
    some = words.of([caption] * 4, silent, torch.tensor([0.0, 0.2, 0.5, 0.99]))
    assert len({tuple(row.tolist()) for row in some}) > 1
    assert torch.equal(some[3], words.table[-1])


@pytest.mark.parametrize("augment", [(), ("mirror",)])
def test_cached_latents_keep_the_sampling_noise(
    settings: Make, base: Path, augment: tuple[str, ...]
) -> None:
    """Cache or not, a latent is mean + std x noise of the autoencoder's posterior."""
    vae = open_pipeline(base).vae
    subject = instance_subject(settings())
    kept, fresh = (
        Latents(
            subject.images.pixels(32, "RGB"),
            vae,
            settings(augment=augment, cache_latents=cached),
            Accelerator(cpu=True),
        )
        for cached in (True, False)
    )
    assert kept.cache is not None
    assert fresh.cache is None
    mirrored = torch.ones(2, NUMBERS)
    mirrored[1, 0] = 0.0  # the second one, where mirroring is asked for
    noise = torch.randn(2, *SHAPE)
    assert kept.shape == SHAPE
    one = kept.sample([4, 1], mirrored, noise)
    torch.testing.assert_close(one, fresh.sample([4, 1], mirrored, noise), atol=1e-5, rtol=1e-5)
    mean = kept.sample([4, 1], mirrored, torch.zeros_like(noise))
    assert not torch.equal(one, mean)

    image = torch.from_numpy(fresh.pixels[1]).permute(2, 0, 1).float()[None] / 127.5 - 1
    image = image.flip(3) if augment else image
    posterior = vae.encode(image).latent_dist
    by_hand = (posterior.mean + posterior.std * noise[1]) * vae.config.scaling_factor
    torch.testing.assert_close(one[1:], by_hand, atol=1e-5, rtol=1e-5)


def test_a_crop_is_made_before_the_autoencoder_and_is_another_each_time(
    settings: Make, base: Path
) -> None:
    """Though latents are asked to be cached: an image varied so has to be encoded anew."""
    vae, pixels = open_pipeline(base).vae, instance_subject(settings()).images.pixels(32, "RGB")
    for name in ("crop", "turn", "light"):
        latents = Latents(pixels, vae, settings(augment=(name,)), Accelerator(cpu=True))
        assert latents.cache is None
        numbers = torch.rand((2, NUMBERS), generator=torch.Generator().manual_seed(0))
        found = latents.sample([2, 2], numbers, torch.zeros(2, *SHAPE))
        images = torch.from_numpy(pixels[[2, 2]]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            mean = vae.encode(vary(images, (name,), numbers)).latent_dist.mean
        torch.testing.assert_close(found, mean * vae.config.scaling_factor, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_words_are_embedded_once_or_left_as_numbers(base: Path) -> None:
    pipeline = open_pipeline(base)
    captions = ["one", "two", "one"]
    frozen = Words(captions, pipeline, trained=False)
    trained = Words(captions, pipeline, trained=True)
    assert frozen.table.shape == (3, 77, 32)  # "", one, two
    assert trained.table.shape == (3, 77)
    silent = torch.tensor([False, False, True])
    order = torch.rand(3)
    numbers = trained.of(captions, silent, order)
    with torch.no_grad():
        torch.testing.assert_close(
            frozen.of(captions, silent, order), pipeline.text_encoder(numbers)[0]
        )
    assert torch.equal(
        numbers[0],
        pipeline.tokenizer("one", padding="max_length", return_tensors="pt").input_ids[0],
    )
    assert torch.equal(numbers[2], trained.table[0])
    one = Words(["one"] * 3, pipeline, trained=False)
    alike = one.of(["one"] * 2, silent[:2], order[:2])
    assert alike.stride(0) == 0  # a view: nothing needs to compute it twice
    assert torch.equal(alike, one.table[[1, 1]])
    assert torch.equal(one.of(["one"] * 2, silent[1:], order[:2]), one.table[[1, 0]])
    assert Words(["a" * 200, "b"], pipeline, trained=True).cut == 1
    long = "a, b, c, " + "d" * 200  # in eight orders, but one caption
    assert Words([long, "b"], pipeline, trained=True, shuffle=True).cut == 1


class Process:
    """What a source needs to know of an Accelerator."""

    device = torch.device("cpu")

    def __init__(self, index: int, count: int) -> None:
        self.process_index, self.num_processes = index, count

    def reduce(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        return tensor


def test_shares_and_pieces_make_up_the_global_batch(settings: Make, base: Path) -> None:
    """The same images, noise and timesteps, however they are dealt out."""
    pipeline = open_pipeline(base)
    subject = instance_subject(settings())
    subject = Subject(subject.images, [f"image {n}" for n in range(5)])
    words = Words(subject.captions, pipeline, trained=True)

    def batches(index: int, count: int, accumulate: int) -> list:
        own = settings(accumulate=accumulate, cache_latents=False)
        process = Process(index, count)
        pixels = subject.images.pixels(32, "RGB")
        source = Source("x", subject.captions, pixels, words, pipeline.vae, own, process)
        return source.at(7, 1000)

    (whole,) = batches(0, 1, 1)
    dealt = [piece for index in (0, 1) for piece in batches(index, 2, 2)]
    assert len(dealt) == 4
    for name in whole._fields:
        together = torch.cat([getattr(piece, name) for piece in dealt])
        torch.testing.assert_close(getattr(whole, name), together, atol=1e-5, rtol=1e-5)


def test_a_batch_has_captions_left_out_and_shuffled_as_drawn(settings: Make, base: Path) -> None:
    pipeline, captions = open_pipeline(base), ["a, b, c, d, e, f"] * 5
    own = settings(caption_dropout=0.5, caption_shuffle=True, batch=40)
    words = Words(captions, pipeline, trained=True, shuffle=True)
    pixels = instance_subject(settings()).images.pixels(32, "RGB")
    source = Source("x", captions, pixels, words, pipeline.vae, own, Process(0, 1))
    (batch,) = source.at(3, 1000)
    drawn = draw(own, "x", 3, source.latents.shape, 1000)
    silent = (batch.words == words.table[0]).all(dim=1)
    assert torch.equal(silent, drawn.silent)
    assert 10 < silent.sum() < 30
    said = {tuple(row) for row in batch.words[~silent].tolist()}
    assert said <= {tuple(row) for row in words.table[1:].tolist()}
    assert len(said) > 3


def test_every_image_comes_once_an_epoch(settings: Make, base: Path, captioned: Path) -> None:
    pipeline = open_pipeline(base)
    images = open_set(captioned)
    subject = Subject(images, images.captions)
    words = Words(subject.captions, pipeline, trained=True)
    pixels, own = images.pixels(32, "RGB"), settings(batch=1)
    source = Source("x", subject.captions, pixels, words, pipeline.vae, own, Process(0, 1))
    seen = {tuple(source.at(step, 1000)[0].words[0].tolist()) for step in range(5)}
    assert len(seen) == 5
