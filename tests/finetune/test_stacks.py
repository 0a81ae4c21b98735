"""Small adapters put together at once: the same network, whatever is asked of it."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.tuners.lora import Linear

from finetune import convolution, stacks
from finetune.adapters import NAME
from finetune.fused import fuse
from finetune.low_rank import Product
from finetune.settings import Lora
from finetune.stacks import Part, Sums, stack
from tests.finetune.test_adapters import tuned

LINEAR = ("attention", "feedforward", "projection")


def unet_of(base: Path, lora: Lora) -> UNet2DConditionModel:
    return tuned(base, lora, text=False).unet


def predict(unet: UNet2DConditionModel, words: int = 2) -> torch.Tensor:
    """Of two noisy images; of one caption for both, where `words` is 1."""
    random = torch.Generator().manual_seed(2)
    noisy = torch.randn(2, 4, 8, 8, generator=random)
    given = torch.randn(words, 77, 32, generator=random).expand(2, -1, -1)
    return unet(noisy, torch.tensor([100, 900]), given, return_dict=False)[0]


def test_sums_by_hand() -> None:
    """W + s B A with numbers of one digit."""
    weights = torch.ones(2, 2, 2)
    down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    first, second = Sums.apply(weights, 0.5, [1, 1], down, 2 * down, up, up)
    assert first.tolist() == [[2.5, 4.0], [3.0, 5.0]]
    assert second.tolist() == [[4.0, 7.0], [5.0, 9.0]]


def test_gradients_of_sums() -> None:
    """Against finite differences; three layers in two pieces."""
    torch.manual_seed(0)
    weights = torch.randn(3, 5, 4, dtype=torch.float64)
    shapes = [(2, 4)] * 3 + [(5, 2)] * 3
    factors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(lambda *f: Sums.apply(weights, 0.7, [2, 1], *f), factors)


def test_gradients_of_a_product() -> None:
    """Against finite differences; of a weight that is learned, and of one that is not."""
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s, dtype=torch.float64) for s in ((2, 3, 4), (5, 4), (5,)))
    for learned in (True, False):
        given = (x.requires_grad_(), weight.requires_grad_(learned), bias)
        assert torch.autograd.gradcheck(Product.apply, given)
    Product.apply(*given).sum().backward()
    assert weight.grad is None


@pytest.mark.parametrize(("targets", "rate"), [(LINEAR, 0.05), (("attention",), 0.5)])
@pytest.mark.parametrize("words", [1, 2], ids=["one caption", "two captions"])
@pytest.mark.parametrize(
    ("few", "onednn"),
    [(0, False), (10**6, False), (10**6, True)],
    ids=["large", "small", "oneDNN"],
    indirect=["onednn"],
)
def test_a_stacked_unet_learns_as_pefts(
    base: Path,
    few: int,
    onednn: bool,
    words: int,
    targets: tuple[str, ...],
    rate: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three updates, each of which the next pass has to see."""
    monkeypatch.setattr(stacks, "FEW", few)
    lora = Lora(rank=2, alpha=3.0, targets=targets)
    found = []
    for fused in (False, True):
        unet = unet_of(base, lora)
        if fused:
            fuse(unet, lora, packing=True)
        optimiser = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=rate)
        losses = []
        for _ in range(4):
            loss = predict(unet, words).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        found.append(losses)
    assert found[0][0] - found[0][-1] > 1e-3
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("targets", [LINEAR, ("attention",)], ids=["all", "attention"])
def test_a_stacked_unet_samples_and_is_put_off_as_pefts(
    base: Path, targets: tuple[str, ...]
) -> None:
    """With other weights, without adapters, and merged; with and without gradients."""
    lora = Lora(rank=2, targets=targets)
    plain, stacked = unet_of(base, lora), unet_of(base, lora)
    fuse(stacked, lora, packing=True)
    for change in (
        lambda unet: None,
        lambda unet: [p.data.mul_(2) for n, p in unet.named_parameters() if "lora_B" in n],
        lambda unet: unet.disable_adapters(),
        lambda unet: unet.enable_adapters(),
        lambda unet: unet.fuse_lora(),
    ):
        change(plain)
        change(stacked)
        for learning in (False, True):
            with torch.set_grad_enabled(learning):
                found, wanted = predict(stacked), predict(plain)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_is_stacked(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small float32 layers; of several that meet the same x, those of one shape without bias."""
    unet = unet_of(base, Lora(rank=2, targets=LINEAR))
    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, Linear)}
    attention = "mid_block.attentions.0.transformer_blocks.0.attn1"
    query, key, out = (layers[f"{attention}.{name}"] for name in ("to_q", "to_k", "to_out.0"))
    two, one, biased = stack(unet, [[query, key], [out], [query, out]])
    assert isinstance(two, Part)
    assert isinstance(one, Part)
    assert biased is None
    predict(unet)  # puts them together
    wanted = [query, key]
    for layer, rows in zip(wanted, two.weight.chunk(2), strict=True):
        sums = layer.base_layer.weight + layer.get_delta_weight(NAME)
        torch.testing.assert_close(rows, sums)
    monkeypatch.setattr(stacks, "FEW", query.weight.numel() - 1)
    assert stack(unet, [[query]]) == [None]
    monkeypatch.undo()
    assert stack(unet.double(), [[query]]) == [None]


def test_nothing_is_stacked_where_convolutions_are_too_large(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "MOST", 0)
    lora = Lora(rank=2)
    unet = unet_of(base, lora)
    fuse(unet, lora, packing=True)
    assert not unet._forward_pre_hooks
