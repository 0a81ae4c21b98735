"""Small pictures inside the page itself, as data: nothing more has to be served for them."""

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from core.images import SYNTHETIC, XMP_SYNTHETIC, open_image, png_info

SIDE = 256  # pixels, at most


def data_uri(image: Image.Image, side: int = SIDE, exact: bool = False) -> str:
    """A JPEG of at most `side` pixels a side; `exact`: a PNG, not made smaller.

    What a model made (`is_synthetic`) says so here too.
    """
    made, kind, file = is_synthetic(image), "PNG" if exact else "JPEG", io.BytesIO()
    if exact:
        image.save(file, kind, pnginfo=png_info(SYNTHETIC if made else {}))
    else:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        marks = {"comment": SYNTHETIC["synthetic"], "xmp": XMP_SYNTHETIC.encode()}
        small.save(file, kind, quality=90, **(marks if made else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def is_synthetic(image: Image.Image) -> bool:
    """Whether it was read from a PNG that is marked so, cropped or resized as it may be by now."""
    return "synthetic" in image.info


def made_up(image: Image.Image) -> Image.Image:
    """The same, marked as made by a model."""
    image.info |= SYNTHETIC
    return image


def unmarked(image: Image.Image) -> Image.Image:
    """The same pixels alone, where knowing whose they are would spoil a judgement."""
    plain = image.copy()
    plain.info = {}
    return plain


def img(image: Image.Image | Path, alt: str, side: int = SIDE, exact: bool = False) -> str:
    """An <img> with its text for those who cannot see it."""
    opened = open_image(image) if isinstance(image, Path) else image
    return f'<img src="{data_uri(opened, side, exact)}" alt="{escape(alt, quote=True)}">'


def figure(image: Image.Image | Path, words: str, side: int = SIDE) -> str:
    """A picture with words under it."""
    return f"<figure>{img(image, words, side)}<figcaption>{escape(words)}</figcaption></figure>"
