"""Two pictures on one place: slider, flicker, difference, side by side; by mouse or keyboard.

Plain HTML: radio buttons and a range, which keyboards and screen readers know. Gradio's ImageSlider
takes neither.
"""

import itertools
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.errors import UserError
from core.images import fit
from panels.thumbnails import img

MODES = {"cut": "Slider", "flicker": "Flicker", "difference": "Difference", "beside": "Beside"}
_numbers = itertools.count()


class Difference(NamedTuple):
    """Of two pictures, in grey levels of 255."""

    mean: float
    most: int
    share: float
    """Of the pixels that differ at all, 0 to 1."""

    @property
    def words(self) -> str:
        if not self.most:
            return "The two are equal, pixel for pixel."
        return (
            f"Mean difference {self.mean:.2f} grey levels of 255, at most {self.most}; "
            f"{self.share:.0%} of the pixels differ."
        )


def difference(first: Image.Image, second: Image.Image) -> Difference:
    """Of pictures of one size. Raises UserError where they are of two."""
    if first.size != second.size:
        raise UserError(f"They have different sizes, {first.size} and {second.size} pixels.")
    pixels = [np.asarray(image.convert("RGB"), dtype=np.int16) for image in (first, second)]
    apart = np.abs(pixels[0] - pixels[1])  # H x W x 3
    return Difference(float(apart.mean()), int(apart.max()), float((apart.max(-1) > 0).mean()))


def pair(first: Image.Image, second: Image.Image, names: tuple[str, str]) -> str:
    """The two on one place; the second is brought to the first one's size where they differ."""
    group = f"osteon-pair-{next(_numbers)}"
    modes = "".join(
        f'<label><input type="radio" name="{group}" value="{value}"'
        f"{' checked' if value == 'cut' else ''}> {title}</label>"
        for value, title in MODES.items()
    )
    if second.size != first.size:
        second = fit(second, first.width)
    pictures = "".join(
        img(image, name, exact=True) for image, name in zip((first, second), names, strict=True)
    )
    left, right = (escape(name) for name in names)
    move = "this.closest('.osteon-pair').style.setProperty('--cut', this.value + '%')"
    return (
        f'<div class="osteon-pair"><fieldset><legend>{left} (left) and {right}</legend>{modes}'
        f'</fieldset><label class="osteon-cut">Where the slider stands <input type="range" min="0" '
        f'max="100" value="50" oninput="{move}"></label><div>{pictures}</div></div>'
    )
