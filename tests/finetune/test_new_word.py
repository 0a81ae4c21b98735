"""A new word: only its embeddings move, and plain diffusers reads them back."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from core.errors import UserError
from core.families import load_sampler
from finetune.captions import Words
from finetune.models import ROOT, Denoiser, check_unknown, open_pipeline, tokenize
from finetune.new_word import FILE, add_word, settled, spelt, vectors_of
from finetune.optimisers import build_optimiser
from finetune.plan import warnings
from finetune.sample import StableDiffusionSampler
from finetune.settings import Concept, DreamBoothSettings, Lora, Optim, Token, check_heard
from finetune.train_dreambooth import train
from finetune.trained import freeze, groups

Make = Callable[..., DreamBoothSettings]
WORD = Token("<wing>", "bat", vectors=2, lr=0.1)


def test_a_word_begins_as_its_initialiser(base: Path) -> None:
    pipeline = open_pipeline(base)
    with torch.no_grad():
        before = pipeline.text_encoder(tokenize(pipeline.tokenizer, ["a bat"]))[0]
    add_word(pipeline, Token("<wing>", "b"))
    with torch.no_grad():
        same = pipeline.text_encoder(tokenize(pipeline.tokenizer, ["a bat"]))[0]
        initial = pipeline.text_encoder(tokenize(pipeline.tokenizer, ["a b"]))[0]
        word = pipeline.text_encoder(tokenize(pipeline.tokenizer, ["a <wing>"]))[0]
    torch.testing.assert_close(before, same)
    torch.testing.assert_close(word, initial)
    with pytest.raises(UserError, match="knows '<wing>' already"):
        add_word(pipeline, Token("<wing>", "b"))


@pytest.mark.parametrize(
    ("initialiser", "shares", "told"),
    [
        ("abcde", ["a b c d e</w>"], "5 tokens of this base; the new word starts from their mean"),
        ("abcde", ["a b c", "d e</w>"], "word's 2 vectors start from the mean of their share each"),
        ("abcde", ["a b", "c d", "e</w>"], "3 vectors start from the mean of their share each"),
        ("abc", ["a", "b", "c</w>"], "3 tokens of this base; the new word's 3 vectors start from"),
        ("ab", ["a", "b</w>", "a", "b</w>", "a"], "5 vectors start from them, in turn"),
        ("a", ["a</w>", "a</w>"], ""),
        ("a", ["a</w>"], ""),
    ],
)
def test_a_word_begins_as_all_of_its_initialiser(
    base: Path, initialiser: str, shares: list[str], told: str
) -> None:
    pipeline = open_pipeline(base)
    table = pipeline.text_encoder.get_input_embeddings().weight.detach().clone()
    said = add_word(pipeline, Token("<wing>", initialiser, vectors=len(shares)))
    assert (f"'{initialiser}' is " in said and told in said) if told else not said
    for vector, share in zip(vectors_of(pipeline.text_encoder), shares, strict=True):
        rows = table[pipeline.tokenizer.convert_tokens_to_ids(share.split())]
        torch.testing.assert_close(vector, rows.sum(dim=0) / len(rows), rtol=1e-5, atol=1e-7)


def test_only_the_word_learns_and_it_becomes_part_of_the_table(
    base: Path, settings: Make, tmp_path: Path
) -> None:
    pipeline = open_pipeline(base)
    add_word(pipeline, WORD)
    own = settings(prompt="a <wing>", token=WORD, unet=False)
    trained = freeze(Denoiser(pipeline.unet, pipeline.text_encoder), own)
    assert len(trained) == 2 * 32
    assert [group["lr"] for group in groups(trained, own)] == [0.1]
    words = Words(["a <wing>"], pipeline, trained=True)
    new = set(words.table[1].tolist()) - set(words.table[0].tolist())
    assert set(pipeline.tokenizer.convert_tokens_to_ids(["<wing>", "<wing>_1"])) <= new
    with torch.no_grad():
        vectors_of(pipeline.text_encoder).normal_()
        wanted = pipeline.text_encoder(words.table[1:])[0]
        with settled(pipeline.text_encoder):
            assert isinstance(pipeline.text_encoder.get_input_embeddings(), torch.nn.Embedding)
            assert torch.equal(pipeline.text_encoder(words.table[1:])[0], wanted)
    assert torch.equal(pipeline.text_encoder(words.table[1:])[0], wanted)


def test_a_word_learns_at_its_own_rate_and_does_not_decay(base: Path, settings: Make) -> None:
    """Its embeddings are as long as they have to be; adapters shrink by lr x weight_decay."""
    pipeline = open_pipeline(base)
    add_word(pipeline, WORD)
    optim = Optim(lr=0.01, weight_decay=0.5)
    own = settings(prompt="a <wing>", token=WORD, lora=Lora(rank=2), optim=optim)
    trained = freeze(Denoiser(pipeline.unet, pipeline.text_encoder), own)
    optimiser = build_optimiser(groups(trained, own), own.optim, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    for parameter in trained.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert sum(name.endswith(".vectors") for name in before) == 1 < len(before)
    for name, after in trained.state_dict().items():
        word = name.endswith(".vectors")
        wanted = before[name] - 0.1 if word else before[name] * 0.995 - 0.01
        torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pivotal", [False, True])
def test_textual_inversion_and_pivotal_tuning(
    base: Path, settings: Make, plain: Path, pivotal: bool, capsys: pytest.CaptureFixture
) -> None:
    own = settings(
        prompt="a <wing>", token=WORD, unet=pivotal, lora=Lora(rank=2), steps=2, ema_decay=0.9,
        optim=Optim(lr=1e-3),
    )  # fmt: skip
    told = "'bat' is 3 tokens of this base; the new word's 2 vectors start from the mean"
    train(own, dry_run=True)
    assert told in capsys.readouterr().out
    train(own)
    folder = Path(own.run_dir) / "weights"
    log = (Path(own.run_dir) / "log.txt").read_text()
    assert told in log
    assert f"In diffusers: pipeline.load_textual_inversion('{folder / FILE}')" in log
    assert (f"; pipeline.load_lora_weights('{folder}')" in log) is pivotal
    fresh = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    fresh.load_textual_inversion(folder / FILE)
    assert "<wing>_1" in fresh.tokenizer.get_vocab()
    learned = fresh.text_encoder.get_input_embeddings().weight[-2:]
    assert (learned - open_pipeline(base).text_encoder.get_input_embeddings().weight[0]).std() > 0
    assert (folder / "pytorch_lora_weights.safetensors").exists() is pivotal
    with_word, without = (
        load_sampler(Path(own.run_dir), "cpu")([0], [prompt], steps=2)[0]
        for prompt in ("a <wing>", "a bat")
    )
    assert with_word.tobytes() != without.tobytes()


def test_whole_networks_take_the_word_along(settings: Make, base: Path) -> None:
    """With all that is trained of the text encoder; the other words stay as they are."""
    own = settings(prompt="a <wing>", token=WORD, lora=None, text_encoder=True, steps=2)
    train(own)
    whole = StableDiffusionPipeline.from_pretrained(
        Path(own.run_dir) / "weights", safety_checker=None
    )
    assert {"<wing>", "<wing>_1"} <= whole.tokenizer.get_vocab().keys()
    plain = open_pipeline(base).text_encoder.state_dict()
    for name, tensor in whole.text_encoder.state_dict().items():
        words = name.endswith("token_embedding.weight")
        assert torch.equal(tensor[:-2] if words else tensor, plain[name]) == words, name


def test_nothing_to_train_is_refused(settings: Make) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        settings(unet=False)


@pytest.mark.parametrize("unet", [True, False])
def test_a_word_that_nothing_says_is_refused(
    settings: Make, captioned: Path, base: Path, unet: bool
) -> None:
    """By its prompts before anything is opened, by captions before the first step."""
    remedy = r'No caption contains the new word <wing>.*give --prompt "a <wing>"'
    with pytest.raises(UserError, match=remedy):
        settings(token=WORD, unet=unet)
    other = Concept(str(captioned), prompt="a <wing> on a rock")
    assert settings(token=WORD, unet=unet, concepts=(other,)).token == WORD
    for dry_run in (True, False):
        with pytest.raises(UserError, match=remedy):
            train(settings(token=WORD, unet=unet, data=str(captioned), prompt=None), dry_run)
    pipeline = open_pipeline(base)
    add_word(pipeline, WORD)
    assert Words(["a ramp"], pipeline, trained=True, learned=False).cut == 0  # held-out images


def test_a_word_that_is_known_as_a_whole() -> None:
    """The vocabulary marks whole words, which are not in it as they are typed."""
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models" / "sd2-mini" / "tokenizer")
    assert "pteranodon" not in tokenizer.get_vocab()
    for word in ("pteranodon", "Pteranodon"):
        with pytest.raises(UserError, match=f"The base knows '{word}' already"):
            check_unknown(tokenizer, word)
    check_unknown(tokenizer, "<pteranodon>")


@pytest.mark.parametrize("prompt", ["sin on a single rock", "a sin, Risin high"])
def test_a_word_that_another_contains(settings: Make, prompt: str) -> None:
    """Tokenizers look for a new word everywhere, and would leave "s" and "gle" around it."""
    for word, text, told in (
        ("sin", prompt, r"token.name sin is a part of '(single|risin)'.*read in pieces \(of <sin>"),
        ("sin", "a sin, twice: sin.", ""),
        ("<sin>", "many <sin>s", ""),
    ):
        own = settings(prompt=text, token=Token(word, "a"))
        found = [line for line in warnings(own, 32) if "token.name" in line]
        assert len(found) == bool(told)
        assert not told or re.search(told, found[0])


def test_a_caption_has_the_word_in_capitals_too() -> None:
    check_heard("sinomacrops", ["a bat", "Sinomacrops flying"])
    with pytest.raises(UserError, match="No caption contains the new word sinomacrops"):
        check_heard("sinomacrops", ["a bat", "Sino macrops"])


@pytest.mark.parametrize("name", ["<wing>", "sinomacrops", "new bat"])
def test_all_vectors_of_a_word_are_read_however_it_is_written(name: str) -> None:
    """As captions, as a sampler's prompts, and mixed."""
    pipeline = open_pipeline(ROOT / "models/sd2-mini")
    add_word(pipeline, Token(name, "bat", vectors=3))
    small, large = f"{name} in flight", f"{name.title().replace(' ', '  ')} in flight"
    words = Words([small, large], pipeline, trained=True)
    first = pipeline.tokenizer.convert_tokens_to_ids(name)
    assert words.table[1].tolist()[1:4] == [first, first + 1, first + 2]
    assert words.table[2].tolist() == words.table[1].tolist()
    sampler = StableDiffusionSampler(pipeline, 64)
    texts = [(small, ""), (large, ""), ("a bat", small), ("a bat", large)]
    images = [sampler([0], [said], steps=1, negative=avoided)[0] for said, avoided in texts]
    assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()
    assert images[2].tobytes() == images[3].tobytes()
    mixed = [sampler.mix({0: 1.0}, {text: 1.0}, steps=1).tobytes() for text in (small, large)]
    assert mixed[0] == mixed[1]
    assert spelt("A Dog", pipeline.tokenizer) == "A Dog"


def test_capitals_which_the_base_never_reads() -> None:
    with pytest.raises(ValueError, match=r"small letters.*give <wing>"):
        DreamBoothSettings(data="x", run_dir="y", prompt="a <Wing>", token=Token("<Wing>", "a"))
