"""Whole files or none; training state without pickle."""

from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.files import atomic_folder, atomic_path, read_jsonl, write_jsonl
from core.state import load_state, save_state


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    for text in ("one", "two"):
        with atomic_folder(folder) as temporary:
            (temporary / "file").write_text(text)
    assert (folder / "file").read_text() == "two"
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"a": 1}, {"a": 2}])
    with file.open("a") as handle:
        handle.write('{"a": ')
    assert read_jsonl(file) == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": \n{"a": 2}\n')
    with pytest.raises(UserError, match="line 1"):
        read_jsonl(file)


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
