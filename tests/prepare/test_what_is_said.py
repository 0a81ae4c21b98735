"""What `osteon prepare folder` prints of images that are not as training wants them."""

from core.sets import open_set
from tests.prepare.test_folder import paint, prepare


def test_images_that_stay_without_a_caption_are_said(tmp_path, capsys):
    """Training refuses such a set without one prompt for all: the next command has it."""
    for seed, name in enumerate("abc"):
        paint(tmp_path / f"in/{name}.png", seed=seed)
    (tmp_path / "in/a.txt").write_text("on a rock")
    prepare(tmp_path / "in", tmp_path / "out", "--prefix", "x, ")
    told = capsys.readouterr().out
    assert "2 of 3 images have no caption: --caption, with another --out, gives one behind" in told
    assert told.endswith("--prompt 'a photo of ...'\n")
    prepare(tmp_path / "in", tmp_path / "whole", "--prefix", "x, ", "--caption", "a wing")
    assert open_set(tmp_path / "whole").captions == ["x, on a rock", "x, a wing", "x, a wing"]
    told = capsys.readouterr().out
    assert "no caption" not in told
    assert "--prompt" not in told


def test_few_files_are_left_out_with_their_reasons(tmp_path, capsys):
    source = tmp_path / "in"
    paint(source / "good.png")
    (source / "empty.png").touch()
    prepare(source, tmp_path / "one")
    told = capsys.readouterr().out
    assert "\n1 file left out: empty.png: " in told
    assert "(empty file)" in told
    for number in range(5):
        (source / f"{number}.heic").touch()
    prepare(source, tmp_path / "six")
    told = capsys.readouterr().out
    assert "6 files left out: .heic, 5 of them: not an image by its name; empty.png: not" in told
    for suffix in ("pdf", "docx"):
        (source / f"text.{suffix}").touch()
    prepare(source, tmp_path / "more")
    told = capsys.readouterr().out
    assert f"8 files left out; {tmp_path / 'more/set.json'} says why.\n" in told
