"""A transformer block as one function: what diffusers' and peft's own computes."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock

from finetune import low_rank, stacks, transformer
from finetune.fused import fuse
from finetune.settings import Lora
from finetune.transformer import Transform, is_usual
from tests.finetune.test_adapters import tuned

LORA = Lora(rank=2, alpha=3.0)
Change = Callable[[BasicTransformerBlock], object]


def pair(base: Path) -> tuple[UNet2DConditionModel, UNet2DConditionModel]:
    """Of the same weights; the second one's blocks are replaced."""
    plain, fused = (tuned(base, LORA, text=False).unet for _ in range(2))
    fuse(fused, LORA, packing=True)
    return plain, fused


def blocks_of(unet: UNet2DConditionModel) -> list[BasicTransformerBlock]:
    return [layer for layer in unet.modules() if isinstance(layer, BasicTransformerBlock)]


@pytest.mark.parametrize("captions", [1, 2])
def test_gradients(base: Path, captions: int) -> None:
    """Of x, words and weights, against finite differences, in float64."""
    unet = pair(base)[1]
    unet(torch.randn(1, 4, 8, 8), 500, torch.randn(1, 77, 32))  # puts the weights together
    block = blocks_of(unet)[0].double()
    shapes = [part.weight.shape for part in block.forward.args[1]]
    width, depth = shapes[0][1], shapes[3][1]
    random = torch.Generator().manual_seed(4)
    given = [(2, 3, width), (captions, 5, depth), *shapes]
    x, words, *weights = (
        torch.randn(shape, generator=random, dtype=torch.float64).mul_(0.3).requires_grad_()
        for shape in given
    )
    function = lambda x, words, *weights: Transform.apply(x, words, block, *weights)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, words, *weights), fast_mode=True)


@pytest.mark.parametrize("captions", ["one", "one for all", "two"])
def test_a_unet_with_its_words(base: Path, captions: str) -> None:
    """The same prediction and gradients, the words' too, which a text encoder learns by."""
    random = torch.Generator().manual_seed(5)
    noisy = torch.randn(1 if captions == "one" else 2, 4, 8, 8, generator=random)
    given = torch.randn(2 if captions == "two" else 1, 77, 32, generator=random)
    found = []
    for unet in pair(base):
        words = given.clone().requires_grad_()
        times = torch.tensor([900, 100])[: len(noisy)]
        with mock.patch.object(transformer, "product", wraps=low_rank.product) as seen:
            guess = unet(noisy, times, words.expand(len(noisy), -1, -1), return_dict=False)[0]
        met = {call.args[0].shape[:2] for call in seen.call_args_list if call.args[0].ndim == 3}
        guess.square().sum().backward()
        learned = [p.grad for p in unet.parameters() if p.requires_grad]
        assert all(gradient.abs().max() > 0 for gradient in learned)
        found.append([guess.detach(), words.grad, *learned])
    assert met == {(len(given), 77)}  # by the replaced blocks: each caption once
    for own, wanted in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_what_it_does_not_know_is_diffusers(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of the words, many positions, and no gradient at hand."""
    random = torch.Generator().manual_seed(6)
    noisy, words = torch.randn(2, 4, 8, 8, generator=random), torch.randn(2, 77, 32)
    mask = torch.arange(77).expand(2, -1) < 9
    plain, fused = pair(base)
    outputs = {}
    for masked in (None, mask):
        options = {"encoder_attention_mask": masked, "return_dict": False}
        wanted, found = (unet(noisy, 500, words, **options)[0] for unet in (plain, fused))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        outputs[masked is None] = found
    assert (outputs[True] - outputs[False]).abs().max() > 1e-3
    monkeypatch.setattr(Transform, "apply", None)  # from here on it may not be asked
    with torch.no_grad():
        torch.testing.assert_close(fused(noisy, 500, words, return_dict=False)[0], outputs[True])
    monkeypatch.setattr(transformer, "FEW", 0)
    torch.testing.assert_close(fused(noisy, 500, words, return_dict=False)[0], outputs[True])


@pytest.mark.parametrize(
    ("change", "usual"),
    [
        (lambda block: None, True),
        (lambda block: block.norm2.requires_grad_(True), False),
        (lambda block: setattr(block.ff.net[1], "p", 0.1), False),
        (lambda block: setattr(block.attn2.to_out[1], "p", 0.1), False),
        (lambda block: setattr(block, "norm_type", "ada_norm"), False),
        (lambda block: setattr(block.attn2, "is_cross_attention", False), False),
        (lambda block: block.ff.net.append(torch.nn.Dropout(0)), False),
        (
            lambda block: setattr(
                block.attn2.to_q.base_layer, "bias", torch.nn.Parameter(torch.ones(1))
            ),
            False,
        ),
    ],
)
def test_which_blocks_are_usual(base: Path, change: Change, usual: bool) -> None:
    block = blocks_of(tuned(base, LORA, text=False).unet)[0]
    change(block)
    assert is_usual(block) is usual


@pytest.mark.parametrize(
    ("targets", "few", "replaced"),
    [
        (("attention",), 10**6, True),
        (("attention", "projection"), 10**6, True),
        (("attention", "feedforward"), 10**6, False),
        (("projection",), 10**6, False),
        (("attention",), 0, False),
    ],
)
def test_blocks_are_replaced_if_all_their_adapters_are_stacked(
    base: Path,
    targets: tuple[str, ...],
    few: int,
    replaced: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stacks, "FEW", few)
    lora = Lora(rank=2, targets=targets)
    unet = tuned(base, lora, text=False).unet
    fuse(unet, lora, packing=True)
    assert [("forward" in vars(block)) for block in blocks_of(unet)].count(replaced) == len(
        blocks_of(unet)
    )
