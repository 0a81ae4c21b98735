"""`osteon doctor`: what is installed, which device, which weights are at hand, what to do.

`osteon doctor data/x`: whether that image set is fit to learn from.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from core.checkup import check_set
from core.device import pick_device
from core.errors import Parser, command
from core.sets import training_of

ROOT = Path(__file__).resolve().parents[1]
NEEDED = [
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "safetensors",
    "pillow",
    "torch-fidelity",
    "gradio",
    "jsonargparse",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "jinja2",
    "pydicom",
]
EXTRAS = {
    "tensorboard": "loss curves in TensorBoard",
    "wandb": "loss curves in Weights & Biases",
    "trackio": "loss curves in Trackio",
    "bitsandbytes": "8-bit AdamW",
    "prodigyopt": "the Prodigy optimiser",
    "schedulefree": "the schedule-free optimiser",
}
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


def inception_file() -> Path:
    """Where torch-fidelity looks for FID's network."""
    home = os.environ.get("TORCH_HOME") or Path.home() / ".cache/torch"
    return Path(home) / "hub/checkpoints" / INCEPTION


def packages() -> list[tuple[bool, str, str]]:
    """(fine, what, remedy) of every package."""
    rows = []
    for name in (*NEEDED, *EXTRAS):
        try:
            rows.append((True, f"{name} {version(name)}", ""))
        except PackageNotFoundError:
            if name in EXTRAS:
                rows.append((True, f"{name} -", f"for {EXTRAS[name]}: pip install {name}"))
            else:
                rows.append((False, f"{name} is missing", "make setup"))
    return rows


def machine() -> list[tuple[bool, str, str]]:
    device = pick_device()
    name = torch.cuda.get_device_name() if device == "cuda" else device
    memory = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    slow = "models/sd2-mini trains in minutes here; a full Stable Diffusion 2 needs a GPU"
    return [
        (sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}", "3.11 or newer"),
        (True, f"device {name}, {os.cpu_count()} cores", slow if device == "cpu" else ""),
        (memory > 4, f"{memory:.1f} GB of memory free", "" if memory > 4 else "close programs"),
        (disk > 2, f"{disk:.1f} GB of disk free", "" if disk > 2 else "make room"),
    ]


def weights() -> list[tuple[bool, str, str]]:
    rows = []
    for folder in ("models/sd2-mini", "models/encoder-mini"):
        there = (ROOT / folder).is_dir()
        rows.append((there, folder, "" if there else f"missing; git checkout {folder}"))
    file = inception_file()
    absent = f"scores are Fréchet distances of encoder-mini, not FID, until they lie at {file}"
    there = file.exists()
    return [*rows, (True, f"Inception weights {'' if there else '-'}", "" if there else absent)]


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="osteon doctor", description=__doc__)
    parser.add_argument("data", nargs="?", help="image set to examine, in place of the machine")
    parser.add_argument(
        "--clip",
        type=Path,
        help="folder of a CLIP, to find skeletons and drawings among life images",
    )
    parser.add_argument(
        "--base", help="whose tokens captions are counted in (default models/sd2-mini)"
    )
    given = parser.parse_args(argv)
    data = given.data
    rows = check_set(data, given.clip, given.base) if data else machine() + packages() + weights()
    for fine, what, remedy in rows:
        print(f"{'ok ' if fine else '!! '} {what}{f'  ({remedy})' if remedy else ''}")
    bad = sum(not fine for fine, _, _ in rows)
    if bad:
        print(f"{bad} to mend.")
    else:
        print(f"All is well. Next: {training_of(data) if data else 'osteon demo'}")


if __name__ == "__main__":
    main()
