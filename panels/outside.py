"""Pictures by others: what the page shows of a file, and the file itself to fetch."""

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from core.files import atomic_path
from core.images import open_image

SHOWN = {"PNG", "JPEG", "WEBP"}
"""Formats that every browser knows."""
DEPTH_8 = {"1", "L", "LA", "P", "RGB", "RGBA"}
"""Pillow's modes of at most eight bits."""


def served(file: Path, pictures: Path) -> Path:
    """The same bytes inside the folder that is served."""
    copy = pictures / "outside" / file.parent.name / file.name
    if not copy.exists() or copy.stat().st_mtime < file.stat().st_mtime:
        with atomic_path(copy, flush=False) as temporary:
            shutil.copyfile(file, temporary)
    return copy


def shown(file: Path) -> Any:
    """The path of a file that a browser shows as it is, with all that it says of itself; else its
    picture: of 16 bits, browsers would show the upper eight.

    Raises UserError for what is no image.
    """
    image = open_image(file)
    with Image.open(file) as stored:
        as_it_is = stored.format in SHOWN and stored.mode in DEPTH_8
    return str(file) if as_it_is else image
