"""One setting over several values, drawn and scored in one command:

    osteon sweep --run runs/x --real data/x --vary steps=50,250,500 --out reports/steps
    osteon sweep --run runs/x --real data/x --vary weights=50,250,500 --out reports/training
    osteon sweep --run runs/x --real data/x --vary guidance=1,3,5 --out reports/guidance
    osteon sweep --run runs/x --real data/x --vary n=50,100,200 --out reports/n

`--vary` names an option of the family: steps, guidance, lora_scale, weights (the training steps of
which the run kept them)...; or n, the number of images. What else a run was trained with is
compared by naming one run for each value:

    osteon compare --axis latent --real data/x --fake 32=runs/z32 64=runs/z64 --out reports/latent

The report shows the scores as curves over the values; --base 0=FOLDER sets images of the model
before tuning beside them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from compare.score import main as compare
from core.errors import Parser, UserError, command
from core.files import atomic_folder, write_jsonl
from core.generate import generate, read_seeds
from core.prompts import read_prompts
from core.sets import open_set


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Draw, score and plot one setting over several values."""
    parser = Parser(
        prog="osteon sweep",
        description=main.__doc__,
        epilog="Further flags go to `osteon compare`.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, type=Path, help="run, or diffusers model folder")
    parser.add_argument("--vary", required=True, metavar="NAME=A,B,C", help="option and its values")
    parser.add_argument("--seeds", default="0-63", help="of every value (default 0-63)")
    parser.add_argument("--prompts", help="file with one prompt a line, or data/SET:test")
    parser.add_argument("--out", required=True, type=Path, help="folder of the report")
    arguments, rest = parser.parse_known_args(argv)
    name, values = read_values(arguments.vary)
    prompts = read_prompts(arguments.prompts) if arguments.prompts else None
    seeds = read_seeds(arguments.seeds)
    if name == "n":
        folder = generate(arguments.run, seeds, prompts)
        places = [first_images(folder, int(n), arguments.out.with_name(f"n-{n}")) for n in values]
    else:
        places = [
            generate(
                arguments.run, seeds, prompts, f"{name}-{value}", options={name: json.loads(value)}
            )
            for value in values
        ]
    fakes = [f"{value}={place}" for value, place in zip(values, places, strict=True)]
    compare(["--axis", name, "--fake", *fakes, "--out", str(arguments.out), *rest])


def read_values(text: str) -> tuple[str, list[str]]:
    """ "steps=50,250" -> ("steps", ["50", "250"]). Raises UserError for anything but numbers."""
    name, _, listed = text.partition("=")
    values = [value.strip() for value in listed.split(",")]
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not name or len(set(numbers)) < 2:
        raise UserError(f"--vary '{text}' is not like steps=50,250,500 (two numbers or more).")
    return name, values


def first_images(folder: Path, count: int, out: Path) -> Path:
    """A folder of links to the first images of `folder`, with their rows."""
    images = open_set(folder)
    if not 2 <= count <= len(images):
        raise UserError(f"n={count}, but {folder} holds {len(images)} images; give more --seeds.")
    with atomic_folder(out) as links:
        for path in images.paths[:count]:
            os.link(path, links / path.name)
        rows = [row for row in images.rows[:count] if "file" in row]
        write_jsonl(links / "samples.jsonl", rows)
    return out


if __name__ == "__main__":
    main()
