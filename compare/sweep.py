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

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compare.asked import add_flags, check_replaceable, open_asked
from compare.score import along, compare
from compare.sources import open_fakes
from core.errors import Parser, UserError, command
from core.families import is_number, load_sampler
from core.files import atomic_folder, read_jsonl, write_jsonl
from core.generate import add_seeds, asked_seeds, generate, options_help, read_options
from core.parallel import process_state
from core.runs import named, samples_folder


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Draw, score and plot one setting over several values."""
    arguments, rest = _parser().parse_known_args(argv)
    arguments.command = shlex.join(["osteon", "sweep", *(sys.argv[1:] if argv is None else argv)])
    arguments.axis, values = read_values(arguments.vary)
    arguments.run = named(arguments.run)
    seeds, prompts = asked_seeds(arguments)
    options = read_options(rest)
    asked = open_asked(arguments)
    names = [f"{arguments.set or arguments.axis}-{word}" for word in values]
    drawn = {samples_folder(arguments.run, name): None for name in names}
    check_replaceable(arguments.out, asked.real, drawn)
    if arguments.base:
        along(arguments.axis, open_fakes([arguments.base]))
    sampler = load_sampler(arguments.run, asked.device)
    draw = partial(generate, arguments.run, prompts=prompts, device=asked.device, sampler=sampler)
    fresh = [folder for folder in drawn if not folder.exists()]
    try:
        if arguments.axis == "n":
            folders = draw_counts(draw, values, seeds, options, arguments.set)
        else:
            folders = draw_options(draw, arguments.axis, values, seeds, options, arguments.set)
    except UserError:
        take_back(fresh)
        raise
    del sampler, draw  # the model's memory is free while its images are measured
    arguments.fake = [f"{value}={folder}" for value, folder in folders.items()]
    compare(arguments, asked)


def read_values(text: str) -> tuple[str, dict[str, float]]:
    """ "steps=50,250" -> "steps", {"50": 50, "250": 250}. Raises UserError for anything else."""
    name, _, listed = text.partition("=")
    words = [word.strip() for word in listed.split(",")]
    try:
        values = {word: json.loads(word, parse_constant=str) for word in words}
    except json.JSONDecodeError:
        values = {}
    numbers = [value for value in values.values() if is_number(value)]
    if not name or len(numbers) < 2 or len(set(numbers)) < len(words):
        raise UserError(f"--vary '{text}' is not like steps=50,250,500 (two numbers or more).")
    return name, values


def draw_options(
    draw: Callable[..., Path],
    axis: str,
    values: Mapping[str, float],
    seeds: Sequence[int],
    options: Mapping[str, Any],
    name: str | None,
) -> dict[str, Path]:
    """A folder of images for each value of an option, samples/<name>-<value>.

    Every value's first image comes before any second one, so that UserError for a value that
    cannot be is raised at once.

    Args:
        draw: `generate` of one run.
        options: what stays the same.
        name: None: the option's.
    """
    folders = {}
    for some in (seeds[:1], seeds):
        for word, value in values.items():
            chosen = {**options, axis: value}
            folders[word] = draw(some, name=f"{name or axis}-{word}", options=chosen)
    return folders


def take_back(folders: Sequence[Path]) -> None:
    """Of values before one that cannot be: remove the folders that hold their first image alone."""
    for folder in folders:
        if process_state().is_main_process and len([*folder.glob("*.png")]) == 1:
            shutil.rmtree(folder)


def draw_counts(
    draw: Callable[..., Path],
    values: Mapping[str, float],
    seeds: Sequence[int],
    options: Mapping[str, Any],
    name: str | None,
) -> dict[str, Path]:
    """A folder with the images of the first so many seeds for each value, samples/<name>-<value>.

    Arguments as of `draw_options`. Raises UserError for more images than seeds.
    """
    for count in values.values():
        if not isinstance(count, int) or not 2 <= count <= len(seeds):
            raise UserError(
                f"n={count} should be a whole number from 2 to {len(seeds)}; more with --seeds."
            )
    whole = draw(seeds, name=name or "default", options=dict(options))
    folders = {word: whole.with_name(f"{name or 'n'}-{word}") for word in values}
    state = process_state()
    if state.is_main_process:
        for word, folder in folders.items():
            copy_images(whole, seeds[: int(word)], folder)
    state.wait_for_everyone()
    return folders


def copy_images(folder: Path, seeds: Sequence[int], out: Path) -> None:
    """The images of these seeds, with their rows. Raises UserError where `out` holds others."""
    others = [path.name for path in out.glob("*.png") if not (folder / path.name).exists()]
    if others:
        raise UserError(f"{out} holds {others[0]}, which {folder} has not; move that folder away.")
    names = {f"{seed:06d}.png" for seed in seeds}
    with atomic_folder(out) as copies:
        for name in (*names, "settings.json"):
            shutil.copyfile(folder / name, copies / name)
        rows = [row for row in read_jsonl(folder / "samples.jsonl") if row["file"] in names]
        write_jsonl(copies / "samples.jsonl", rows)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="osteon sweep",
        description=main.__doc__,
        epilog=options_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, type=Path, help="run, or diffusers model folder")
    parser.add_argument("--vary", required=True, metavar="NAME=A,B,C", help="option and its values")
    add_seeds(parser, "0-63")
    parser.add_argument("--set", help="folders' name under samples/ (default: NAME of --vary)")
    add_flags(parser)
    return parser


if __name__ == "__main__":
    main()
