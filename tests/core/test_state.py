"""Training state on disk: as it was, and nothing of it left in memory."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import core.state
from core.errors import UserError
from core.state import load_state, save_state


@pytest.fixture
def _uncollected() -> Iterator[None]:
    """What only Python's search for circles would free stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tensors() -> int:
    return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())


def tree() -> dict[str, Any]:
    """Parts of one memory, as an optimiser's moments are, a transposed one, and plain values."""
    flat = torch.arange(12.0)
    parts = list(flat.split([2, 4, 6]))
    turned = torch.arange(6.0).reshape(2, 3).T
    values = {"text": "a", "none": None, "yes": True, "pair": (1, 2.5), 3: [turned]}
    return {"flat": flat, "parts": parts, "values": values, "empty": torch.zeros(0)}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    given = tree()
    save_state(given, tmp_path)
    got = load_state(tmp_path)
    values, wanted = got.pop("values"), given.pop("values")
    torch.testing.assert_close(got, given, rtol=0, atol=0)
    torch.testing.assert_close(values.pop(3), wanted.pop(3), rtol=0, atol=0)
    assert values == wanted


@pytest.mark.usefixtures("_uncollected")
def test_nothing_stays_in_memory(tmp_path: Path) -> None:
    """Checkpoint after checkpoint: a full-size model's state has ten gigabytes."""
    given = tree()
    before = tensors()
    for _ in range(3):
        save_state(given, tmp_path)
        load_state(tmp_path)
    assert tensors() == before


def test_what_shares_no_memory_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, int] = {}

    def watched(tensors: dict[str, torch.Tensor], file: Path) -> None:
        written.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
        save_file(tensors, file)

    monkeypatch.setattr(core.state, "save_file", watched)
    own = [torch.ones(3), torch.zeros(2, 2, dtype=torch.bfloat16)]
    save_state({"own": own, "again": own[0]}, tmp_path)
    assert [written["0"], written["1"]] == [each.data_ptr() for each in own]
    assert written["2"] != own[0].data_ptr()


def test_an_optimisers_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    tree = {"optimiser": optimiser.state_dict(), "seconds": 1.5, "none": None, "list": [1, (2, 3)]}
    save_state(tree, tmp_path / "state")
    back = load_state(tmp_path / "state")
    fresh = torch.optim.AdamW(model.parameters())
    fresh.load_state_dict(back["optimiser"])
    for old, new in zip(optimiser.state.values(), fresh.state.values(), strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert (back["seconds"], back["none"], back["list"]) == (1.5, None, [1, (2, 3)])


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    save_state({"a": torch.ones(2)}, tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(UserError, match="delete that folder"):
        load_state(tmp_path)


@pytest.mark.parametrize("fault", ["cut short", "another number", "no list of them"])
def test_a_state_is_read_back_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    tree = {"a": torch.tensor([1.0, float("nan")]), "b": torch.tensor(3), "c": torch.ones(0)}
    save_state(tree, tmp_path / "whole")
    assert torch.equal(load_state(tmp_path / "whole")["a"][:1], tree["a"][:1])
    real = save_file

    def faulty(tensors: dict[str, torch.Tensor], file: Path) -> None:
        real(tensors, file)
        content = file.read_bytes()
        broken = content[:-1] if fault == "cut short" else content[:-1] + bytes([content[-1] ^ 1])
        file.write_bytes(b"" if fault == "no list of them" else broken)

    monkeypatch.setattr(core.state, "save_file", faulty)
    with pytest.raises(UserError, match="does not read back"):
        save_state(tree, tmp_path / "broken")
