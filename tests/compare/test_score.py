"""The command from end to end, on pictures of 16 pixels and an encoder with random weights."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from compare import report
from compare.asked import names_in
from compare.score import main
from core.files import read_json, read_jsonl, write_json, write_jsonl
from tests.finetune.tiny import tiny_pipeline

from .conftest import draw, stops_when_named, write_folder

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '<script>alert("x")</script> & [a](javascript:alert(1)) $\\frac'


class Page(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def compare(tmp_path: Path, encoder_folder: Path) -> Callable[..., dict[str, Any]]:
    """`compare(real, fakes, *more)`: results.json of a comparison written to tmp_path/report."""

    def run(real: Path, fakes: list[Path], *more: str) -> dict[str, Any]:
        out = tmp_path / "report"
        words = ["--real", str(real), "--fake", *map(str, fakes), "--out", str(out)]
        main([*words, "--encoder", str(encoder_folder), "--device", "cpu", *more])
        results: dict[str, Any] = read_json(out / "results.json")
        return results

    return run


def test_runs_and_a_folder(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    real = make_set()
    good, bad = make_run("good", seed=3), make_run("bad", seed=4, contrast=0.1)
    results = compare(real, [bad, good, write_folder(tmp_path / "dalle", draw(4, 9))])

    large, small = results["tables"]
    assert (large["contract"]["n_fake"], small["contract"]["n_fake"]) == (24, 4)
    kinds = [row["kind"] for row in large["rows"]]
    assert kinds == ["fake", "fake", "real", "copies", "mean", "noise"]
    values = {row["label"]: row["scores"]["frechet"]["value"] for row in large["rows"]}
    noise = values.pop("Uniform noise")
    assert values["good"] < values["bad"] < noise
    for row in large["rows"][:4]:
        score = row["scores"]["frechet"]
        assert score["low"] <= score["value"] <= score["high"]
        assert score["interpretable"]  # 24 images, 16 features
    assert "inception_score" not in large["metrics"]  # the small encoder has no such thing
    assert not small["rows"][0]["scores"]["frechet"]["interpretable"]
    assert (
        results["closest"]["noise"]["centred_median"]
        < results["closest"]["held_out"]["centred_median"]
    )
    cost = results["fakes"][0]["cost"]
    assert cost["images_per_second"] == pytest.approx(40 * 8 / 12.5)
    assert cost["generation_seconds_per_image"] == pytest.approx(3 / 24)
    assert results["fakes"][0]["curves"]["loss"]["step"][0] == 1

    page = (tmp_path / "report" / "report.html").read_text()
    assert len(page.encode()) < 5_000_000
    assert "Not for diagnosis" in page
    assert "good is nearest to the held-out real images" in page
    addresses = Page(page).addresses
    assert addresses
    assert all(a.startswith(("#", "data:image/")) for a in addresses)  # nothing from outside
    assert page.count("<svg") == 2 + 2  # intervals, curves
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| good | " in text
    assert str(tmp_path / "report" / "pictures") not in page


def test_a_latent_model_has_its_autoencoder_as_an_anchor(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two, bare = (
        make_run(name, seed=number, family="base") for number, name in enumerate("abc")
    )
    for run in (one, two):
        tiny_pipeline().save_pretrained(run / "weights")
    (table,) = compare(make_set(), [one, two, bare])["tables"]
    rows = {row["kind"]: row["scores"]["frechet"]["value"] for row in table["rows"]}
    kinds = [row["kind"] for row in table["rows"]]
    assert kinds.count("autoencoder") == 1  # the same weights, once
    assert rows["real"] < rows["autoencoder"] < rows["noise"]  # untrained: it loses much
    assert "No anchor for the autoencoder of c" in capsys.readouterr().out


def test_copies_are_seen(
    make_set: Callable[..., Path], compare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    real = make_set()
    results = compare(real, [real / "train", write_folder(tmp_path / "new", draw(26, 77))])
    # 30 training images serve as the real ones, for there are too few others; and are the copies
    kinds = [[row["kind"] for row in table["rows"]] for table in results["tables"]]
    assert kinds == [["fake", "real", "mean", "noise"]] * 2
    sets = results["closest"]["sets"]
    assert sets["train"]["share_above"] == 1
    assert sets["train"]["centred_median"] == pytest.approx(1, abs=1e-4)
    assert sets["new"]["share_above"] < 0.3
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Possible copies: 100 % of train" in text


def test_few_real_images_and_the_base_model(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    real = make_set(train=5, validation=0, test=0)
    base = make_run("base", 12, prompts=["a bat"], family="base", contrast=0.05)
    tuned = make_run("tuned", 12, seed=0, prompts=["a bat"], family="dreambooth")
    results = compare(real, [base, tuned])
    assert results["few"]
    assert results["base"] == "base"
    (table,) = results["tables"]
    assert set(table["metrics"]) == {
        "kid",
        "similarity",
        "diversity",
        "vendi",
    }
    assert results["closest"]["leave_one_out"]
    assert [section["title"] for section in results["sections"]] == ["Real images", "“a bat”"]
    assert [row["label"] for row in results["sections"][1]["rows"]] == ["base", "tuned"]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "than base" in text
    assert "no Fréchet distance is given" in text


def test_many_prompts_make_a_table(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
) -> None:
    prompts = [f"prompt {i}" for i in range(24)]
    runs = [make_run("a", prompts=prompts), make_run("b", seed=8), make_run("c", prompts=prompts)]
    results = compare(make_set(), runs)
    section = results["sections"][1]
    assert section["kind"] == "table"
    assert section["columns"] == ["a", "b", "c"]
    assert section["rows"][5]["caption"] == "prompt 5"
    assert [cell["seed"] for cell in section["rows"][5]["cells"]] == [5, 5, 5]


def test_hostile_names_and_prompts_stay_text(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    run = make_run("a", prompts=[HOSTILE])
    label = '<img src=x onerror="alert(1)">$x$|`'
    compare(make_set(), [Path(f"{label}={run}")], "--title", HOSTILE)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert all(a.startswith(("#", "data:image/")) for a in Page(page).addresses)
    lines = (tmp_path / "report" / "report.md").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("    "))  # code is literal
    assert "<script" not in text
    assert "<img" not in text
    assert "](javascript" not in text


def test_rendered_again_from_results_alone(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    results = compare(make_set(), [make_run()])
    out = tmp_path / "report"
    before = (out / "report.html").read_text()
    report.main([str(out)])
    assert (out / "report.html").read_text() == before
    write_json(out / "results.json", results | {"title": "Another title"})
    report.main([str(out)])
    assert "<h1>Another title</h1>" in (out / "report.html").read_text()


def test_a_second_call_extracts_nothing_and_finds_the_same(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    own_cache: Path,
) -> None:
    real, run = make_set(), make_run()
    first = compare(real, [run])
    times = {file: file.stat().st_mtime_ns for file in (own_cache / "features").iterdir()}
    assert len(times) == 7  # held-out, generated, real anchor, copies, mean image, noise, train
    second = compare(real, [run])
    assert times == {file: file.stat().st_mtime_ns for file in (own_cache / "features").iterdir()}
    assert first["tables"] == second["tables"]
    assert first["closest"] == second["closest"]


def test_a_report_of_something_else_is_not_replaced(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    real, a, b = make_set(), make_run("a"), make_run("b", seed=8)
    base = f"0={make_run('base', seed=9)}"
    compare(real, [a], "--base", base)
    before = (tmp_path / "report/results.json").read_bytes()
    other = write_folder(tmp_path / "other", draw(26, 5))
    for wrong, told in [
        ([real, [b], "--base", base], "of other generated images, a"),
        ([other, [a]], "of other real images, set:test"),
        ([Path(f"{real}:train"), [a]], "of other real images, set:test"),
    ]:
        with pytest.raises(SystemExit):
            compare(*wrong)
        last = f"holds a report {told}; give another --out, or delete that one.\n"
        assert capsys.readouterr().err.endswith(last)
    assert (tmp_path / "report/results.json").read_bytes() == before

    # The same comparison: with more sets, fewer images, a real image changed
    assert len(compare(real, [a, b], "--images", "9")["fakes"]) == 2
    (real / "test/000000.png").write_bytes((real / "train/000000.png").read_bytes())
    compare(real, [b])
    write_json(tmp_path / "report/results.json", {"schema": 1, "folds": []})
    with pytest.raises(SystemExit):
        compare(real, [a])
    assert "holds a report of another kind; give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mine", "out", "said"),
    [
        ("out/pictures", "out", "holds pictures/ without a report's results.json; move pictures/"),
        ("out/mine", "out", "holds something else; give another --out"),
        ("x", "x/000000.png/out", "x/000000.png is in the way, and no folder; give another --out"),
    ],
)
def test_nobodys_pictures_are_replaced(
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mine: str,
    out: str,
    said: str,
) -> None:
    real = write_folder(tmp_path / mine, draw(4, 1))
    before = {path: path.read_bytes() for path in real.iterdir()}
    fake = write_folder(tmp_path / "fake", draw(4, 2))
    with pytest.raises(SystemExit) as stop:
        compare(real, [fake], "--out", str(tmp_path / out))  # the last of two counts
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in real.iterdir()} == before


def test_a_killed_first_comparison_can_run_again(tmp_path: Path) -> None:
    write_folder(tmp_path / ".pictures.7.tmp", draw(1, 1))
    assert names_in(tmp_path) == names_in(tmp_path / "new") == set()


@pytest.mark.parametrize("last", ["pictures", "results.json"])
def test_a_comparison_killed_as_it_writes_can_run_again(
    compare: Callable[..., dict[str, Any]], tmp_path: Path, last: str
) -> None:
    """pictures/ alone would be taken for someone's own."""
    sets = write_folder(tmp_path / "real", draw(4, 1)), [write_folder(tmp_path / "x", draw(4, 2))]
    with stops_when_named(last), pytest.raises(SystemExit):
        compare(*sets)
    assert (tmp_path / "report" / last).exists()
    assert compare(*sets)["sections"]


def test_votes_an_older_report_and_tables_for_others(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    real, a, b = make_set(), make_run("a"), make_run("b", seed=8)
    compare(real, [a, b])
    out = tmp_path / "report"
    (out / "results.json").rename(tmp_path / "old.json")
    votes = tmp_path / "votes"
    votes.mkdir()
    sides = {"left": str(a / "samples/default"), "right": str(b / "samples/default")}
    write_jsonl(votes / "arena.jsonl", [sides | {"vote": "left"}] * 3)
    more = ["--votes", str(votes), "--against", str(tmp_path / "old.json")]
    (out / "results.json").touch()
    results = compare(real, [a, b], *more)
    rows = results["against"]["rows"]
    assert rows
    assert all(row["value"] == row["old_value"] and not row["reason"] for row in rows)
    assert results["people"]["strength"][0]["label"] == "a"
    page = (out / "report.html").read_text()
    assert "What people said" in page
    assert "Since “Generated images against set”" in page
    table = list(csv.DictReader((out / "scores.csv").open()))
    scores = [row for row in table if row["label"] == "a" and row["metric"] == "kid"]
    row = next(row for row in results["tables"][0]["rows"] if row["label"] == "a")
    assert float(scores[0]["value"]) == pytest.approx(row["scores"]["kid"]["value"])
    index = yaml.safe_load((out / "model-index.yaml").read_text())["model-index"]
    assert [entry["name"] for entry in index] == ["a", "b"]
    assert index[0]["results"][0]["metrics"][0]["args"]["n_fake"] == 24
    flagged = read_jsonl(a / "samples/default/samples.jsonl")
    assert {"seed", "prompt", "nearest", "copy_score", "possible_copy"} <= flagged[0].keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--real", "nothing", "--fake", "x", "--out", "o"], "nothing is not there"),
        (["--real", "{set}", "--fake", "nothing", "--out", "o"], "give a run, a samples folder"),
        (["--real", "{set}", "--fake", "{set}/test", "--out", "{set}"], "holds something else"),
        (
            ["--real", "{set}:validation", "--fake", "{set}/test", "--out", "o"],
            "one image; a score",
        ),
        (
            ["--real", "{set}", "--fake", "{set}/test", "--out", "o", "--images", "1"],
            "--images 1: a score needs two",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    make_set: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = str(make_set(validation=1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([word.replace("{set}", folder) for word in words])
    assert stop.value.code == 2
    assert not Path("o").exists()
    error = capsys.readouterr().err.strip()
    assert re.fullmatch(rf"error: .*{message}.*", error)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    compare: Callable[..., dict[str, Any]],
    encoder_folder: Path,
    tmp_path: Path,
) -> None:
    real, run = make_set(), make_run()
    alone = compare(real, [run], "--batch", "5")
    words = f"--real {real} --fake {run} --out {tmp_path}/two --encoder {encoder_folder} --batch 5"
    launch = f"-m torch.distributed.run --standalone --nproc_per_node 2 {ROOT}/compare/score.py"
    environment = {"OSTEON_CACHE": str(tmp_path / "other"), "ACCELERATE_USE_CPU": "true"}
    subprocess.run(
        [sys.executable, *launch.split(), *words.split()],
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    together = read_json(tmp_path / "two" / "results.json")
    assert together["tables"] == alone["tables"]
    assert together["closest"] == alone["closest"]
