"""Label, viewer, ballots, grid axes, latent ways, edits: each by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import main
from core.errors import UserError
from core.files import write_json
from core.images import open_image
from finetune.sample import SCHEDULERS as OF_SAMPLER
from panels import ballots, differences
from panels.greys import read_greys, windowed
from panels.grid import read_axis
from panels.label import labelled, strip_height, unlabelled
from panels.latent import way
from panels.reports import Reports
from panels.training import Training
from panels.viewer import difference, pair
from panels.wish import SCHEDULERS
from panels.workbench import Workbench


def noise(size: int = 64, seed: int = 0, mode: str = "L") -> Image.Image:
    shape = (size, size) if mode == "L" else (size, size, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize(("size", "mode"), [(32, "L"), (64, "RGB"), (512, "L")])
def test_the_label_comes_off_without_a_trace(size: int, mode: str) -> None:
    image = noise(size, mode=mode)
    marked = labelled(image, strip_height(size))
    assert marked.size == (size, size + strip_height(size))
    strip = np.asarray(marked)[size:]
    assert strip.max() > 150  # words can be seen
    assert strip[:, 0].max() == 0  # and fit
    assert unlabelled(marked, strip_height(size)).tobytes() == image.tobytes()


def test_difference_by_hand() -> None:
    first = Image.new("L", (2, 2), 100)
    second = first.copy()
    assert difference(first, second).words == "The two are equal, pixel for pixel."
    second.putpixel((0, 0), 108)
    found = difference(first, second)
    assert (found.mean, found.most, found.share) == (2.0, 8, 0.25)
    with pytest.raises(UserError, match="sizes"):
        difference(first, Image.new("L", (3, 3)))


def test_the_viewer_has_labels_and_escapes_names() -> None:
    html = pair(noise(8), noise(16), ("<b>", "two"))
    assert "<b>" not in html
    assert html.count("<img") == html.count("alt=") == 2
    assert html.count('type="radio"') == 4
    assert 'type="range"' in html


def test_votes_and_answers_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "votes" / "arena.jsonl"
    assert ballots.read(file) == []
    for vote in ("left", "left", "tie", "bad"):
        ballots.record(file, left="a", right="b", vote=vote)
    shares = ballots.preferred(ballots.read(file))
    assert list(shares) == ["a", "b"]
    assert (shares["a"].hits, shares["b"].hits, shares["a"].count) == (2.5, 0.5, 4)
    rows = [{"set": "x", "made": True, "answer": a} for a in ("made", "real")]
    rows.append({"set": "x", "made": False, "answer": "real"})
    assert {name: s[:2] for name, s in ballots.told_apart(rows).items()} == {
        "x": (1, 2),
        "real images": (1, 1),
    }
    low, high = ballots.Share(5, 10).interval  # Wilson, by hand: 0.2366, 0.7634
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)


def test_axes_are_read_or_refused() -> None:
    assert read_axis("Guidance", "1, 2.5").values == (1.0, 2.5)
    assert read_axis("Prompt", "a, b | c").values == ("a, b", "c")
    assert read_axis("none", "").values == ("",)
    for title, text in (("Steps", "two"), ("Nothing", "1"), ("Seed", " ")):
        with pytest.raises(UserError):
            read_axis(title, text)


def test_ways_between_seeds_and_prompts() -> None:
    first, middle, last = way("Between", [4, 9], ["a"], 3)
    assert first.seeds == ((4, 1.0),)
    assert middle.seeds == ((4, 0.5), (9, 0.5))
    assert last.seeds == ((9, 1.0),)
    assert middle.prompts == (("a", 1.0),)
    loop = way("Walk", [1, 2], ["a", "b"], 4)
    assert [mix.seeds[0] for mix in loop] == [(1, 1.0), (1, 0.5), (2, 1.0), (2, 0.5)]
    assert loop[2].prompts == (("b", 1.0),)
    *points, total = way("Arithmetic", [1, 2, 3], ["a"], 8)
    assert [mix.seeds for mix in points] == [((1, 1.0),), ((2, 1.0),), ((3, 1.0),)]
    assert total.seeds == ((1, 1.0), (2, -1.0), (3, 1.0))
    for mode, seeds in (("Between", [1]), ("Arithmetic", [1, 2]), ("Fly", [1, 2])):
        with pytest.raises(UserError):
            way(mode, seeds, ["a"], 4)


def test_schedulers_are_the_samplers() -> None:
    assert set(SCHEDULERS) == set(OF_SAMPLER)


def test_windowing_by_hand() -> None:
    values = np.array([[0, 100, 110, 120, 255]], np.uint8)
    assert np.asarray(windowed(values, 110, 20)).tolist() == [[0, 0, 128, 255, 255]]
    assert windowed(values, 127.5, 255).tobytes() == values.tobytes()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_windowed_as_stored(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"scan.{suffix}"
    values = np.array([[0, 1000, 1001, 1002, 60000]], np.uint16)
    Image.fromarray(values).save(file)
    at_8_bits = np.asarray(open_image(file, "L"))
    assert at_8_bits[0, 1] == at_8_bits[0, 3]  # told apart no more
    greys = read_greys(file)
    assert greys.values.tolist() == values.tolist()
    assert (greys.limits, greys.whole) == ((0, 65535), (30000, 60000))
    assert np.asarray(windowed(greys.values, 1001, 2)).tolist() == [[0, 0, 128, 255, 255]]
    Image.fromarray(values[:, :4]).save(file)
    assert read_greys(file).limits == (0, 1023)  # ten bits in sixteen
    Image.fromarray((values % 256).astype(np.uint8)).save(file)
    assert read_greys(file).whole == (127.5, 255)


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "x" * 80])
def test_runs_have_plain_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="Name the run"):
        Training(tmp_path).start("vae", name, [])


def write_report(folder: Path, value: float, real: str = "r") -> None:
    """A page and one score of one set."""
    contract = {"extractor": "mini", "sha256": "0", "layer": "pool", "resize": "none"}
    contract |= {"dtype": "fp32", "size": 64, "mode": "L", "real": real, "n_real": 9, "n_fake": 9}
    score = {"value": value, "low": value - 1, "high": value + 1, "interpretable": True}
    row = {"label": "<lora>", "kind": "fake", "scores": {"kid": score}}
    metric = {"kid": {"title": "KID", "scale": 10.0}}
    table = {"contract": contract, "metrics": metric, "rows": [row]}
    write_json(folder / "results.json", {"tables": [table]})
    (folder / "report.html").write_text(f"<h1>{folder.name}</h1>")


def test_a_report_that_is_no_text_gives_a_sentence(tmp_path: Path) -> None:
    write_report(tmp_path / "reports/latin", 1.0)
    (tmp_path / "reports/latin/report.html").write_bytes("<p>Röntgen</p>".encode("latin-1"))
    assert "no text in UTF-8" in Reports(Workbench(tmp_path)).show("latin")


def test_two_reports_in_one_table(tmp_path: Path) -> None:
    for name, value, real in (("one", 12.0, "r"), ("two", 8.5, "r"), ("three", 8.5, "others")):
        write_report(tmp_path / name, value, real)
    html = differences.table(tmp_path / "one", tmp_path / "two")
    assert "&lt;lora&gt;" in html
    assert "<td>120 [110, 130]</td><td>85.0 [75.0, 95.0]</td><td>−35.0</td>" in html
    assert "not measured alike" in differences.table(tmp_path / "one", tmp_path / "three")
    with pytest.raises(UserError, match=r"results\.json"):
        differences.table(tmp_path / "one", tmp_path / "none")


@pytest.mark.parametrize("port", ["65536", "0", "x"])
def test_a_port_that_cannot_be_is_one_line(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--port", port])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
