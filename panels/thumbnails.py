"""Small pictures inside the page itself, as data: nothing more has to be served for them."""

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from core.images import open_image

SIDE = 256  # pixels, at most


def data_uri(image: Image.Image, side: int = SIDE, exact: bool = False) -> str:
    """A JPEG of at most `side` pixels a side; `exact`: a PNG, not made smaller."""
    small = image if exact else image.copy()
    if not exact:
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "PNG" if exact else "JPEG"
    file = io.BytesIO()
    small.save(file, kind, **({} if exact else {"quality": 90}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def img(image: Image.Image | Path, alt: str, side: int = SIDE, exact: bool = False) -> str:
    """An <img> with its text for those who cannot see it."""
    opened = open_image(image) if isinstance(image, Path) else image
    return f'<img src="{data_uri(opened, side, exact)}" alt="{escape(alt, quote=True)}">'


def figure(image: Image.Image | Path, words: str, side: int = SIDE) -> str:
    """A picture with words under it."""
    return f"<figure>{img(image, words, side)}<figcaption>{escape(words)}</figcaption></figure>"
