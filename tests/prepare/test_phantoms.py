import os
import signal
import subprocess
import sys
import time

import pytest

from core.files import read_json
from core.sets import open_set
from prepare.phantoms import main, seed_of


def snapshot(folder):
    """Bytes of every file, set.json's name aside."""
    return {
        path.relative_to(folder): path.read_bytes().replace(folder.name.encode(), b"")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "both"
    main(["--kind", "both", "--count", "6", "--test", "4", "--out", str(out)])
    return out


def test_a_set_opens_in_this_project_with_all_that_set_json_promises(both):
    info = read_json(both / "set.json")
    assert info["counts"] == {"train": 6, "validation": 0, "test": 4}
    assert {"source", "licence", "citation", "split_rule", "rejected"} < set(info)
    train = open_set(both)
    assert (train.mode, train.pixels(64).shape) == ("RGB", (6, 64, 64, 3))
    assert [row["domain"] for row in train.rows[:2]] == ["chest", "bestiary"]
    assert all(train.captions)
    assert train.fingerprint == info["fingerprints"]["train"]
    assert not (both / "validation").exists()


def test_it_opens_as_a_hugging_face_imagefolder(both, tmp_path):
    from datasets import load_dataset

    loaded = load_dataset("imagefolder", data_dir=str(both), cache_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 6, "test": 4}
    first = loaded["train"][0]
    assert first["image"].size == (64, 64)
    assert first["text"].startswith("chest X-ray")
    assert isinstance(first["findings"], list)
    assert isinstance(first["age"], int)


def test_workers_and_order_change_no_byte(both, tmp_path):
    out = tmp_path / "both"
    words = ["--kind", "both", "--count", "34", "--test", "4", "--validation", "0"]
    main([*words, "--workers", "2", "--out", str(out)])
    again = tmp_path / "again"
    main([*words, "--workers", "1", "--out", str(again)])
    assert snapshot(out)[(out / "train/000033.png").relative_to(out)]
    several, one = snapshot(out), snapshot(again)
    assert {k: v for k, v in several.items() if k.name != "set.json"} == {
        k: v for k, v in one.items() if k.name != "set.json"
    }
    # more images of a set leave the first ones as they are
    for path in both.glob("*/*.png"):
        assert path.read_bytes() == (out / path.relative_to(both)).read_bytes()


def test_splits_and_sets_share_no_seed():
    seeds = {
        seed_of(seed, kind, split, number)
        for seed in (0, 1)
        for kind in ("chest", "bestiary")
        for split in ("train", "validation", "test")
        for number in range(100)
    }
    assert len(seeds) == 2 * 2 * 3 * 100


def test_a_kept_out_animal_for_few_shot_tuning(tmp_path):
    out = tmp_path / "few"
    name = "Sinomacrops bondei"
    words = ["--kind", "bestiary", "--animal", name, "--habitat", "snow", "--out", str(out)]
    main([*words, "--count", "3", "--test", "2"])
    shots, unseen = open_set(out), open_set(out, "test")
    assert {row["animal"] for row in shots.rows + unseen.rows} == {name}
    assert {row["habitat"] for row in shots.rows} == {"snow"}
    assert all(name in caption for caption in shots.captions)
    assert not {p.read_bytes() for p in shots.paths} & {p.read_bytes() for p in unseen.paths}


def test_chests_are_grey(tmp_path):
    main(["--count", "2", "--out", str(tmp_path / "chest")])
    chest = open_set(tmp_path / "chest")
    assert (chest.mode, chest.pixels(64).shape) == ("L", (2, 64, 64))
    assert list(chest.rows[0])[2:] == [
        *("domain", "findings", "view", "sex", "age", "marker", "border")
    ]


def test_the_same_command_again_changes_nothing_and_another_is_refused(both, capsys):
    before = snapshot(both)
    times = {path: path.stat().st_mtime_ns for path in both.glob("*/*.png")}
    main(["--kind", "both", "--count", "6", "--test", "4", "--out", str(both)])
    assert snapshot(both) == before
    assert times == {path: path.stat().st_mtime_ns for path in both.glob("*/*.png")}
    with pytest.raises(SystemExit) as stop:
        main(["--kind", "both", "--count", "6", "--test", "5", "--out", str(both)])
    assert stop.value.code == 2
    assert "prepared with test 4, not 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--animal", "bird"], "need --kind bestiary"),
        (["--kind", "bestiary", "--animal", "unicorn"], "Unknown animal 'unicorn'"),
        (["--kind", "bestiary", "--habitat", "moon"], "Unknown habitat 'moon'"),
        (["--size", "32"], "at least 64"),
        (["--count", "0"], "at least 1"),
        (["--workers", "0"], "--workers"),
        (["--kind", "cat"], "kind"),
        (["--coutn", "3"], "did you mean --count"),
    ],
)
def test_wrong_words_end_in_one_line(words, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert complaint in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SystemExit):
        main(["--count", "1", "--out", str(tmp_path)])
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_ctrl_c_stops_it_and_the_same_command_ends_as_if_unbroken(tmp_path):
    words = [sys.executable, "-m", "prepare.phantoms", "--count", "60", "--workers", "2"]
    stopped, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    process = subprocess.Popen(
        [*words, "--out", str(stopped)], stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(stopped.glob("train/*.png"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert b"the same command goes on" in error
    assert b"Traceback" not in error
    made = {path: path.stat().st_mtime_ns for path in stopped.glob("train/*.png")}
    assert 4 <= len(made) < 60
    assert not (stopped / "set.json").exists()
    assert not list(stopped.rglob("*.tmp"))

    for out in (stopped, unbroken):
        subprocess.run([*words, "--out", str(out)], check=True, capture_output=True)
    assert snapshot(stopped) == snapshot(unbroken)
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    assert not (stopped / ".unfinished.json").exists()


def test_help_loads_nothing_heavy():
    code = (
        "import sys, prepare.phantoms, prepare.folder, prepare.nih, prepare.dicom\n"
        "assert not {'torch', 'scipy', 'imagehash', 'pydicom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
