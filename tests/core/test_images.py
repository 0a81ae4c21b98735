"""Images as they are found in the wild, and as they are written."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import core.images
from core.errors import UserError
from core.images import (
    check_images,
    fingerprint,
    fit,
    grid,
    is_grey,
    list_images,
    open_image,
    png_text,
    write_png,
)


def test_listing_is_sorted_and_skips_what_is_no_picture(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.jfif", "Thumbs.db", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    for folder in (".ipynb_checkpoints", "__MACOSX", "deeper"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.png").write_bytes(b"x")
    (tmp_path / "deeper" / "round").symlink_to(tmp_path)  # a ring of links ends
    found = [p.name for p in list_images(tmp_path)]
    assert found == ["a.JPG", "b.png", "c.jfif"]
    assert [p.name for p in list_images(tmp_path, deep=True)] == [*found, "c.png"]
    with pytest.raises(UserError, match="not a folder"):
        list_images(tmp_path / "absent")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1", "I;16", "F"])
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    else:
        image = Image.new("RGB", (8, 8), (10, 10, 10)).convert(mode)
    path = tmp_path / ("x.tiff" if mode in ("CMYK", "F", "I;16") else "x.png")
    image.save(path)
    for wanted in ("L", "RGB"):
        assert open_image(path, wanted).mode == wanted


@pytest.mark.parametrize(
    ("file", "mode", "wanted"),
    [
        ("x.png", "RGB", (250, 200, 150)),
        ("x.png", "P", (250, 200, 150)),
        ("x.gif", "P", (250, 200, 150)),
        ("x.tiff", "CMYK", (250, 200, 150)),
        ("x.jpg", "CMYK", (250, 200, 150)),
        ("x.png", "L", (209, 209, 209)),  # 0.299 R + 0.587 G + 0.114 B
        ("x.png", "LA", (209, 209, 209)),
        ("x.png", "1", (255, 255, 255)),
    ],
)
def test_a_colour_is_the_same_in_every_mode(
    tmp_path: Path, file: str, mode: str, wanted: tuple[int, int, int]
) -> None:
    colour = Image.new("RGB", (8, 8), (250, 200, 150))
    stored = colour.quantize(2) if mode == "P" else colour.convert(mode, dither=Image.Dither.NONE)
    stored.save(tmp_path / file)
    assert Image.open(tmp_path / file).mode == mode
    seen = np.asarray(open_image(tmp_path / file)).astype(int)
    assert np.abs(seen - wanted).max() <= 2
    grey = np.asarray(open_image(tmp_path / file, "L")).astype(int)
    assert np.abs(grey - (255 if mode == "1" else 209)).max() <= 2


def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(UserError, match="is not UTF-8 text; rename it"):
        list_images(tmp_path)


def test_masked_pixels_leave_the_others_as_they_are(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    masked = values.copy()
    masked[0, 1], masked[3, 3], masked[7, 6] = np.nan, np.inf, -np.inf
    for name, pixels in (("whole", values), ("masked", masked), ("none", np.full((8, 8), np.nan))):
        Image.fromarray(pixels.astype(np.float32)).save(tmp_path / f"{name}.tif")
    whole, seen, none = (
        np.asarray(open_image(tmp_path / f"{n}.tif", "L")) for n in ("whole", "masked", "none")
    )
    known = np.isfinite(masked)
    assert (whole[known] == seen[known]).all()
    assert (seen[0, 1], seen[3, 3], seen[7, 6]) == (0, 255, 0)
    assert (none == 0).all()


def test_grey_is_told_by_header_or_pixels(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 50)
    colour = Image.merge("RGB", [noise, noise.rotate(90), noise])
    for name, image, grey in (
        ("grey.png", noise, True),
        ("depth.png", Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), True),
        ("stored.png", noise.convert("RGB"), True),
        ("stored.jpg", noise.convert("RGB"), True),
        ("colour.png", colour, False),
        ("colour.jpg", colour, False),
        ("palette.gif", colour.quantize(16), False),
        ("tiny.jpg", Image.new("RGB", (3, 2), "red"), False),
    ):
        image.save(tmp_path / name)
        assert is_grey(tmp_path / name) is grey, name
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"text\.png: not a readable image"):
        is_grey(tmp_path / "text.png")


def test_sixteen_bits_are_windowed_not_clipped(tmp_path: Path) -> None:
    values = np.array([[1000, 2000], [3000, 5000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    pixels = np.asarray(open_image(tmp_path / "x.png", "L"))
    assert pixels.tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L", "P"])
def test_transparency_lies_on_white(tmp_path: Path, mode: str) -> None:
    """Which is an alpha, or one colour, here black, that stands for none; the rest stays."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (0, 0, 2, 4))
    alpha = mode in ("RGBA", "LA")
    stored = image.convert(mode) if mode != "P" else image.convert("RGB").quantize(2)
    none = {"RGB": (0, 0, 0), "L": 0, "P": stored.getpixel((3, 0))}
    stored.save(tmp_path / "x.png", **({} if alpha else {"transparency": none[mode]}))
    assert Image.open(tmp_path / "x.png").mode == mode
    for wanted in ("L", "RGB"):
        seen = np.asarray(open_image(tmp_path / "x.png", wanted)).reshape(4, 4, -1)
        assert (seen[:, :2] == 90).all()
        assert (seen[:, 2:] == 255).all()


def test_rotation_by_exif_is_undone(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (4, 8)


def test_damaged_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:500])
    for name in ("empty", "text", "cut"):
        with pytest.raises(UserError, match=rf"{name}\.png: .*; replace or remove it$"):
            open_image(tmp_path / f"{name}.png")
    monkeypatch.setattr(core.images, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match=r"pixels; make it smaller or remove it$"):
        open_image(tmp_path / "whole.png")


def test_a_check_says_what_opening_would_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise, whole = Image.effect_noise((64, 64), 50), []
    for suffix in ("png", "jpg", "gif", "tiff", "webp"):
        whole.append(tmp_path / f"whole.{suffix}")
        noise.save(whole[-1])
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole[-1].read_bytes()[:-600])
        with pytest.raises(UserError) as wanted:
            open_image(cut)
        with pytest.raises(UserError) as said:
            check_images([*whole, cut])
        assert str(said.value) == str(wanted.value)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match="no image by its content"):
        check_images([*whole, tmp_path / "text.png"], most=1)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    check_images([whole[0]])  # a PNG has checksums
    check_images(whole, most=1)
    monkeypatch.setattr(core.images, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match="is over 100 pixels"):
        check_images(whole)


def test_fit_crops_the_centre() -> None:
    image = Image.new("L", (30, 10), 0)
    image.paste(200, (10, 0, 20, 10))
    assert np.asarray(fit(image, 10)).min() == 200


def test_a_written_image_carries_its_text_and_the_synthetic_mark(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    write_png(Image.fromarray(pixels), tmp_path / "x.png", {"osteon": "{}"}, synthetic=True)
    text = png_text(tmp_path / "x.png")
    assert text["osteon"] == "{}"
    assert "trainedAlgorithmicMedia" in text["XML:com.adobe.xmp"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), pixels)


def test_the_fingerprint_follows_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = fingerprint([tmp_path / "a"])
    (tmp_path / "a").write_bytes(b"2")
    assert fingerprint([tmp_path / "a"]) != first


def test_a_grid_has_a_place_for_each() -> None:
    sheet = grid([Image.new("L", (4, 4), value) for value in (0, 50, 100)], columns=2, gap=1)
    assert sheet.size == (9, 9)
    assert sheet.getpixel((0, 0)) == 0
    assert sheet.getpixel((5, 0)) == 50
    assert sheet.getpixel((0, 5)) == 100
