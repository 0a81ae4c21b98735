"""Whole files or none, and lines as they were written."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from core.files import (
    atomic_folder,
    atomic_path,
    disk_used,
    nearest_folder,
    read_jsonl,
    recover,
    write_jsonl,
)
from core.prompts import read_prompts


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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_who_may_read_a_file_is_up_to_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    """safetensors makes its files for their owner alone."""
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "weights") as folder:
            (folder / "unet").mkdir()
            save_file({"a": torch.ones(1)}, folder / "unet/a.safetensors")
            (folder / "card.json").write_text("{}")
        with atomic_path(tmp_path / "b.safetensors") as temporary:
            save_file({"a": torch.ones(1)}, temporary)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [mode] * 3


def test_a_file_that_a_folder_only_points_to_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("private")
    (tmp_path / "mine").chmod(0o600)
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "link").symlink_to(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o600


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"a": 1}, {"a": 2}])
    with file.open("a") as handle:
        handle.write('{"a": ')
    assert read_jsonl(file) == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": \n{"a": 2}\n')
    with pytest.raises(UserError, match="line 1"):
        read_jsonl(file)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_line_ends_where_the_file_says(tmp_path: Path, mark: str) -> None:
    """Captions may hold characters that Python takes for ends of lines."""
    rows = [{"text": f"a bird{mark}in flight"}, {"text": "a bat"}]
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, rows)
    assert read_jsonl(file) == rows
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))  # as Windows has it
    assert read_jsonl(file) == rows
    with file.open("ab") as handle:
        handle.write(f'{{"text": "cut{mark}off'.encode())
    assert read_jsonl(file) == rows
    file.write_text("")
    assert read_jsonl(file) == []
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"a bird{mark}in flight\n\na bat", encoding="utf-8")
    assert read_prompts(prompts) == [row["text"] for row in rows]
    prompts.write_bytes("Café".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_prompts(prompts)


def test_a_process_killed_while_it_replaces_a_folder_loses_neither(tmp_path: Path) -> None:
    """Between the two renames the old folder is put aside; there its process dies."""
    folder = tmp_path / "weights-000050"
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text("old")
    child = os.fork()
    if child == 0:
        real = os.replace

        def dying(source: Path, target: Path) -> None:
            if source.name.endswith(".tmp"):
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = dying  # type: ignore[assignment]
        with atomic_folder(folder) as temporary:
            (temporary / "file").write_text("new")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (tmp_path / ".other.1.tmp").write_text("somebody else's")
    recover(tmp_path / "weights*")
    assert (folder / "file").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"weights-000050", ".other.1.tmp"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_files_that_go_meanwhile_use_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Another process renames what it has written while this one counts."""
    (tmp_path / "run").mkdir()
    for name, text in (("a", "1234"), (".b.tmp", "12")):
        (tmp_path / "run" / name).write_text(text)
    real = Path.stat

    def stat(path: Path, **given: bool) -> os.stat_result:
        if path.name == ".b.tmp" and moment == "before":
            path.unlink(missing_ok=True)
        found = real(path, **given)
        if path.name == ".b.tmp":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", stat)
    assert disk_used(tmp_path / "run") in ((4,) if moment == "before" else (4, 6))


def test_a_file_where_a_folder_would_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert nearest_folder(tmp_path / "new" / "run", "run_dir") == tmp_path
    told = r"file is in the way, and no folder; give another --run_dir"
    for place in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(UserError, match=told):
            nearest_folder(place, "run_dir")
