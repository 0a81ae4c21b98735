"""Moving pictures: GIF by Pillow, MP4 by ffmpeg where it is installed."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from core.errors import UserError
from core.files import atomic_path

SEEN_FROM = 128  # pixels; smaller pictures are doubled until they are as large
COMMENT = b"synthetic: made by a generative model"


def write_gif(frames: Sequence[Image.Image], path: Path, per_second: int = 12) -> None:
    """An endless GIF; at most 50 frames a second are shown by most viewers."""
    first, *others = [_enlarged(frame) for frame in frames]
    with atomic_path(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=round(1000 / per_second),
            loop=0,
            comment=COMMENT,
        )


def write_mp4(frames: Sequence[Image.Image], path: Path, per_second: int = 12) -> None:
    """H.264 for any player. Raises UserError where ffmpeg is missing or fails."""
    if shutil.which("ffmpeg") is None:
        raise UserError("--mp4 needs ffmpeg; install it, or be content with the GIF.")
    pictures = [_enlarged(frame).convert("RGB") for frame in frames]
    width, height = pictures[0].size
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    source += ["-r", str(per_second), "-i", "-"]
    target = ["-f", "mp4", "-pix_fmt", "yuv420p", "-metadata", f"comment={COMMENT.decode()}"]
    with atomic_path(path) as temporary:
        done = subprocess.run(
            ["ffmpeg", "-y", "-loglevel", "error", *source, *target, str(temporary)],
            input=b"".join(picture.tobytes() for picture in pictures),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"ffmpeg failed: {done.stderr.decode(errors='replace').strip()}")


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = 1
    while factor * min(picture.size) < SEEN_FROM:
        factor *= 2
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.BOX)
