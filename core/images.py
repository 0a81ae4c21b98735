"""Image files in and out: listed in order, read safely, written whole and marked synthetic."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from core.errors import UserError
from core.files import atomic_path, list_files

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
UNREAD = {".heic", ".heif", ".avif", ".jxl"}  # pictures, but Pillow does not always read them
TAKE = "osteon prepare folder takes those below; save others as PNG or JPEG"
"""What to do about pictures that are `left_out`."""
GREYS = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"}
"""Pillow's modes without colour."""
MAX_PIXELS = 100_000_000  # above this a file is taken for a decompression bomb
MOST_CHECKED = 4000  # images of a set that are read whole before a run
XMP_SYNTHETIC = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/'
    'trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
)
SYNTHETIC = {
    "synthetic": "true: made by a generative model",
    "XML:com.adobe.xmp": XMP_SYNTHETIC,
}
"""Text chunks of a PNG that a model made."""


def list_images(folder: Path, deep: bool = False) -> list[Path]:
    """Image files of a folder, as `list_files` finds them. Raises UserError as it does."""
    return [path for path in list_files(folder, deep) if path.suffix.lower() in SUFFIXES]


def left_out(folder: Path) -> str:
    """Pictures that `list_images` does not take, in words: "3 in folders below, 2 .heic"; or ""."""
    found: Counter[str] = Counter()
    for path in list_files(folder):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES and path.parent != folder:
            found["in folders below"] += 1
        elif suffix in UNREAD:
            found[suffix] += 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items(), reverse=True))


def open_image(path: Path, mode: str | None = "RGB", quick: bool = False) -> Image.Image:
    """Decode one file to 8-bit grey ("L") or colour ("RGB"), upright, transparency on white.

    16-bit and float greys are windowed to their own minimum and maximum. `mode` None: as stored.

    Args:
        quick: a JPEG at an eighth of its sides, for which all of the file is read, too.

    Raises:
        UserError: not an image, truncated, empty, or more than MAX_PIXELS pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: {image.width}x{image.height} is over {MAX_PIXELS} pixels; "
                        "make it smaller or remove it"
                    )
                if quick:  # of no effect on other formats
                    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
                upright = ImageOps.exif_transpose(image)
                return to_mode(upright, mode) if mode else upright
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{path}: too many pixels (a decompression bomb?); make it smaller or remove it"
        ) from None
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its message repeats the path
        reason = "no image by its content" if unknown else str(error)
        if isinstance(error, OSError) and error.strerror:  # likewise
            reason = error.strerror.lower()
        if path.is_file() and path.stat().st_size == 0:
            reason = "empty file"
        remedy = "replace or remove it" if path.exists() else "give one that is there"
        raise UserError(f"{path}: not a readable image ({reason}); {remedy}") from None


def check_images(paths: Sequence[Path], most: int = MOST_CHECKED) -> None:
    """Raise UserError, as `open_image` does, for one that cannot be read: before a run, for little.

    The first `most` are read to their end, but hardly decoded: a PNG by its checksums. Of others
    only the header is read.
    """
    for number, path in enumerate(paths):
        if not _sound(path, whole=number < most):
            open_image(path)  # says what is wrong, or that nothing is


def _sound(path: Path, whole: bool) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    return False
                if whole and image.format == "PNG":
                    image.verify()
                elif whole:
                    open_image(path, quick=True)
    except Exception:
        return False
    return True


def is_grey(path: Path) -> bool:
    """Whether an image has no colour, by its header if that says so, else by its pixels.

    Raises UserError as `open_image` does, of those whose pixels are asked.
    """
    with suppress(Exception), Image.open(path) as image:
        if image.mode in GREYS:
            return True
    pixels = np.asarray(open_image(path, quick=True))
    return bool((pixels == pixels[..., :1]).all())


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any Pillow mode to "L" or "RGB": 16-bit windowed (what is no number is black), alpha
    composed on white."""
    if image.mode.startswith(("I", "F")):  # 16- or 32-bit grey
        values = np.asarray(image, dtype=np.float64)
        known = values[np.isfinite(values)]  # pixels that were masked may be no number
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        image = Image.fromarray(
            np.round((values - low) * (255.0 / (high - low or 1.0))).astype(np.uint8)
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image).convert("RGB")
    return image.convert(mode)


def fit(image: Image.Image, size: int) -> Image.Image:
    """Centre-crop to a square and resize with Lanczos to size x size (a no-op where it fits)."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def write_png(
    image: Image.Image, path: Path, text: Mapping[str, str] | None = None, synthetic: bool = False
) -> None:
    """Write a PNG whole or not at all, with text chunks; `synthetic` adds the IPTC mark."""
    info = png_info({**(text or {}), **(SYNTHETIC if synthetic else {})})
    with atomic_path(path, flush=False) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def png_info(text: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    """Text chunks of a PNG."""
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_itxt(key, value)
    return info


def png_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG."""
    with Image.open(path) as image:
        image.load()
        return {str(k): v for k, v in image.info.items() if isinstance(v, str)}


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over names and bytes of the files, in the order given: 16 hex digits."""
    return fingerprint_of((p.name, hashlib.sha256(p.read_bytes()).digest()) for p in paths)


def fingerprint_of(files: Iterable[tuple[str, bytes]]) -> str:
    """The same from names and SHA-256 digests (32 bytes each) that are known already."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()[:16]


def to_array(images: Sequence[Image.Image]) -> np.ndarray:
    """Images of one size and mode to uint8, N x H x W (grey) or N x H x W x 3."""
    return np.stack([np.asarray(image) for image in images])


def from_array(pixels: np.ndarray) -> list[Image.Image]:
    """uint8 N x H x W, N x H x W x 1 or N x H x W x 3 to Pillow images."""
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return [Image.fromarray(item) for item in pixels]


def grid(images: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Images of one size in rows of `columns`, white gaps between."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    mode = "RGB" if any(image.mode == "RGB" for image in images) else "L"
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new(mode, size, "white")
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        sheet.paste(image.convert(mode), (column * (width + gap), row * (height + gap)))
    return sheet
