"""DICOM radiographs: a few harmless facts of the header, and the pixels as a reader sees them.

Pixels go through the modality LUT, then the VOI LUT or window (DICOM PS3.3 C.11.1 and C.11.2), then
to 8 bits; MONOCHROME1 is inverted, so that 0 is black.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from core.errors import UserError
from core.images import MAX_PIXELS, fit
from prepare.nih_table import years_of

GREYS = ("MONOCHROME1", "MONOCHROME2")
CHESTS = ("CHEST", "THORAX")


class Header(NamedTuple):
    """What is kept of one header. `group` decides the split and is not stored."""

    key: str
    """16 hexadecimal digits of the file's content: a name that says nothing."""
    reason: str
    """Why the file cannot be used; "" if it can."""
    group: str = ""
    view: str | None = None
    sex: str | None = None
    age: int | None = None
    chest: bool = False


def is_dicom(path: Path) -> bool:
    """Whether the file has the DICOM mark at byte 128, whatever its name."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_header(path: Path, allow_burned_in: bool = False) -> Header:
    """Read one header, and refuse what is no single grey picture."""
    key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break the standard, all over the world
            header = pydicom.dcmread(path, stop_before_pixels=True)
            reason = _refusal(header, allow_burned_in)
            sex, view = header.get("PatientSex"), header.get("ViewPosition")
            return Header(
                key=key,
                reason=reason,
                group=str(header.get("PatientID") or header.get("StudyInstanceUID") or key),
                view=view if view in ("PA", "AP", "LL", "LATERAL") else None,
                sex=sex if sex in ("M", "F") else None,
                age=years_of(str(header.get("PatientAge") or "")),
                chest=str(header.get("BodyPartExamined") or "").upper() in CHESTS,
            )
    except Exception as error:  # pydicom raises whatever a broken file leads to
        return Header(key, f"not a readable DICOM file ({type(error).__name__})")


def _refusal(header: pydicom.Dataset, allow_burned_in: bool) -> str:
    """Why this file cannot be used, or ""."""
    photometric = header.get("PhotometricInterpretation")
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if not rows * columns:
        return f"no picture (modality {header.get('Modality')})"
    if photometric not in GREYS:
        return f"{photometric} is not grey"
    if int(header.get("NumberOfFrames") or 1) > 1:
        return "several frames"
    if rows * columns > MAX_PIXELS:
        return f"{columns}x{rows} is over {MAX_PIXELS} pixels"
    if header.get("BurnedInAnnotation") == "YES" and not allow_burned_in:
        return "BurnedInAnnotation: the pixels may name the patient (--allow_burned_in takes it)"
    return ""


def load_radiograph(path: Path, size: int) -> Image.Image:
    """The picture of a DICOM file, 8-bit grey, size x size. Raises UserError with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            stored = dataset.pixel_array  # H x W, integers
            return fit(Image.fromarray(to_grey(stored, dataset)), size)
    except Exception as error:  # a missing decoder, a cut-off file, a broken table
        text = " ".join(str(error).split())
        raise UserError(f"pixels cannot be decoded ({text[:120]})") from None


def to_grey(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Stored values to what a viewer shows: uint8, 0 = black.

    Without a VOI LUT or window, the image's own minimum and maximum are black and white.
    """
    values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset).astype(np.float64)
    low, high = _output_range(values, dataset)
    grey = np.clip((values - low) * (255.0 / ((high - low) or 1.0)), 0, 255)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255.0 - grey
    return np.round(grey).astype(np.uint8)


def _output_range(values: np.ndarray, dataset: Any) -> tuple[float, float]:
    """The least and greatest value that the VOI transform can give."""
    tables = dataset.get("VOILUTSequence")
    if tables and tables[0].get("LUTDescriptor") and tables[0].get("LUTData") is not None:
        return 0.0, 2.0 ** tables[0].LUTDescriptor[2] - 1
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        with np.errstate(over="ignore"):
            low, high = apply_voi_lut(np.array([-1e12, 1e12]), dataset)
        return float(low), float(high)
    return float(values.min()), float(values.max())
