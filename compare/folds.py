"""Four to twenty pictures, all of them used: each is held out once.

    osteon folds dreambooth --config configs/dreambooth/species_lora_mini.yaml --data data/x --out R

For every fold a model learns from the other pictures, is asked for the captions of those it has not
seen, or for the one --prompt that it was trained on, and is compared with these and with what it
learned from; so is its base, untuned. Further flags go to the trainer. Stopped, the same command
goes on. R/folds/1/ holds a fold's data, run and samples; R/results.json, report.md and report.html
are over all folds.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compare.asked import check_names, names_in
from compare.extractors import choose_extractor
from compare.features import PixelPath, subset
from compare.fold_report import write_report
from compare.fold_scores import Fold, score
from compare.measure import Setup
from compare.pictures import Album
from core.config import read_yaml
from core.device import pick_device
from core.errors import Parser, UserError, command
from core.families import base_folder
from core.files import atomic_folder, nearest_folder, read_json, write_json, write_jsonl
from core.generate import generate, read_seeds
from core.images import open_image
from core.provenance import commit, now, versions
from core.runs import samples_folder
from core.seeds import stream
from core.sets import ImageSet, open_set
from core.verbs import is_finished, run_verb, try_verb

SCHEMA = 1
FEWEST, MOST = 4, 20  # pictures; with more, `osteon compare` and a test split
ALL_APART = 6  # up to so many, each is a fold of its own
INHERITED = ("schema", "source", "licence", "citation", "domain", "size", "mode")  # of set.json
BATCH = 64  # images measured at once
PLACE = "every fold's run lies in the folder that --out of osteon folds names; give that alone"
SOURCE = "every fold learns from its part of what --data of osteon folds names; give that alone"
OURS = {
    "run_dir": PLACE,
    "output_dir": PLACE,
    "data": SOURCE,
    "instance_data_dir": SOURCE,
    "dry_run": "its settings are tried before the first fold anyway; leave it out",
    "print_config": "osteon train takes it; leave it out",
}
"""Flags of the trainer that `osteon folds` sets itself, by one or the other name; and why."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Train, generate and score with every picture held out once."""
    given, rest = _parser().parse_known_args(argv)
    if not given.config.is_file():
        raise UserError(f"{given.config} is not there; configs/ has presets.")
    check_rest(rest)
    images = open_set(given.data)
    groups = split(images, given.folds, given.seed)
    check_out(given.out)
    seeds, device = read_seeds(given.seeds), pick_device(given.device)
    extractor = choose_extractor(given.extractor, device=device)
    first = given.out / "folds/1/run"
    if not first.exists():  # what the trainer refuses is said before a fold is written
        print("Trying the trainer's settings.", flush=True)
        try_verb(train_words(given, given.data, first, rest))
    folds = []
    for number, places in enumerate(groups, 1):
        print(f"\n[{number}/{len(groups)}] without {', '.join(names(images, places))}", flush=True)
        folder = given.out / "folds" / str(number)
        folds.append(run_fold(folder, images, places, seeds, given, rest))
    path = PixelPath(min(open_image(images.paths[0]).size), images.mode)
    setup = Setup(extractor, path, device, BATCH, given.seed)
    words = shlex.join(["osteon", "folds", *(sys.argv[1:] if argv is None else argv)])
    with atomic_folder(given.out / "pictures") as album:
        results = score(images, folds, setup, Album(album)) | {"family": given.family}
        facts = {"schema": SCHEMA, "made": now(), "command": words, **commit()}
        # Before pictures/ has its name: alone, it would be taken for someone's own
        write_json(given.out / "results.json", facts | {"versions": versions()} | results)
    print(f"Report: {write_report(given.out)}")


def check_rest(rest: Sequence[str]) -> None:
    """Raise UserError for flags of the trainer that are not its own to follow here."""
    for word in rest:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name in OURS:
            raise UserError(f"--{name} is not the trainer's here: {OURS[name]}.")


def check_out(out: Path) -> None:
    """Refuse to write among someone's files: only into a new folder, one with nothing but folds/,
    or an older report with its folds/; and no fold's data/ is replaced that is none.

    Raises UserError for anything else.
    """
    there = names_in(out)
    check_names(out, there - {"folds"})
    if "results.json" in there:
        old = read_json(out / "results.json")
        if not isinstance(old, dict) or "folds" not in old or "folds" not in there:
            raise UserError(f"{out} holds another report; give another --out.")
    nearest_folder(out / "folds", "out")
    for data in out.glob("folds/*/data"):
        if not (data / "set.json").is_file():
            raise UserError(f"{data} is no fold's data; move it away, or give another --out.")


def split(images: ImageSet, count: int | None, seed: int) -> list[list[int]]:
    """Places of the pictures of each fold; those of one patient stay together.

    Raises UserError for too few or too many pictures, or folds.
    """
    if not FEWEST <= len(images) <= MOST:
        raise UserError(
            f"{images.name} holds {len(images)} pictures; folds are for {FEWEST} to {MOST}. "
            "With more, hold some out: osteon prepare, then osteon compare."
        )
    owners: dict[Any, list[int]] = {}
    for place, row in enumerate(images.rows):
        patient = row.get("patient_id")
        own = ("place", place) if patient is None or patient == "" else ("patient", patient)
        owners.setdefault(own, []).append(place)
    count = count or (len(owners) if len(owners) <= ALL_APART else 5)
    if not 2 <= count <= len(owners):
        raise UserError(f"--folds {count} should lie between 2 and {len(owners)}.")
    order = torch.randperm(len(owners), generator=stream(seed, "folds")).tolist()
    groups, apart = [list[int]() for _ in range(count)], list(owners.values())
    for turn, owner in enumerate(order):
        groups[turn % count] += apart[owner]
    return [sorted(group) for group in groups]


def run_fold(
    folder: Path,
    images: ImageSet,
    places: list[int],
    seeds: list[int],
    given: argparse.Namespace,
    rest: list[str],
) -> Fold:
    """Prepare, train and generate what is not there yet."""
    others = [place for place in range(len(images)) if place not in places]
    data, run = folder / "data", folder / "run"
    if not (data / "set.json").exists():
        write_fold(data, images, {"train": others, "test": places})
    held_out, learned = open_set(data, "test"), open_set(data, "train")
    wanted = [content(subset(images, own)) for own in (places, others)]
    if wanted != [content(held_out), content(learned)]:
        raise UserError(f"{folder} is of other pictures or folds; give another --out.")
    how = {"family": given.family, "config": given.config.read_text(), "flags": rest}
    told = folder / "training.json"
    if run.exists() and told.exists() and read_json(told) != how:
        raise UserError(f"{run} was trained by other settings; give another --out.")
    write_json(told, how)
    if not is_finished(run):
        run_verb(train_words(given, data, run, rest), f"fold {folder.name}")
    asked = prompts_of(run, held_out)
    draw = partial(generate, seeds=seeds, device=given.device)
    tuned = of_seeds(open_set(draw(run, prompts=asked)), seeds)
    prompts = asked or list(dict.fromkeys(tuned.captions))
    name = f"folds-{given.out.name}-{folder.name}"
    before = draw_base(run, seeds, prompts, name, given.device)
    return Fold(folder, held_out, learned, tuned, before, read_json(run / "run.json")["seconds"])


def train_words(
    given: argparse.Namespace, data: str | Path, run: Path, rest: list[str]
) -> list[str]:
    """What `osteon` is told to learn from that data."""
    words = ["train", given.family, "--config", str(given.config)]
    return [*words, "--data", str(data), "--run_dir", str(run), *rest]


def prompts_of(run: Path, held_out: ImageSet) -> list[str]:
    """What a fold's model is asked for: the one prompt that it was trained on, or else the captions
    of the pictures that it has not seen; none: what it draws by itself."""
    prompt = read_yaml(run / "config.yaml").get("prompt")
    return [prompt] if prompt else [text for text in held_out.captions if text.strip()]


def draw_base(
    run: Path, seeds: list[int], prompts: list[str], name: str, device: str | None = None
) -> ImageSet | None:
    """The same by the run's base, before tuning; None, and a line that says why, where there is
    none."""
    draw = partial(generate, seeds=seeds, prompts=prompts, device=device)
    tuned = read_yaml(run / "config.yaml")
    if tuned.get("lora") and not tuned.get("token") and not tuned.get("zero_terminal_snr"):
        scale = {"lora_scale": 0.0}  # without its adapters it is its base
        return of_seeds(open_set(draw(run, name="base", options=scale)), seeds)
    base, why = None, "it was tuned from none"
    try:
        base = base_folder(run)
    except UserError as error:
        why = str(error)
    if base is None:
        print(f"Without its base in the report: {why}", flush=True)
        return None
    width, height = open_image(samples_folder(run, "default") / f"{seeds[0]:06d}.png").size
    size = {"height": height, "width": width}
    return of_seeds(open_set(draw(base, name=f"{name}-{width}x{height}", options=size)), seeds)


def of_seeds(images: ImageSet, seeds: Sequence[int]) -> ImageSet:
    """Of what lies in a folder of samples, perhaps from other times too, the images asked for."""
    asked = {f"{seed:06d}.png" for seed in seeds}
    return subset(images, [n for n, path in enumerate(images.paths) if path.name in asked])


def content(images: ImageSet) -> list[tuple[bytes, str]]:
    """Of few images, with their captions, in order."""
    return [
        (path.read_bytes(), text) for path, text in zip(images.paths, images.captions, strict=True)
    ]


def write_fold(data: Path, images: ImageSet, splits: dict[str, list[int]]) -> None:
    """A prepared set of copies."""
    with atomic_folder(data) as folder:
        for name, places in splits.items():
            (folder / name).mkdir()
            rows = []
            for number, place in enumerate(places):
                file = f"{number:06d}{images.paths[place].suffix}"
                shutil.copyfile(images.paths[place], folder / name / file)
                own = images.rows[place]
                rows.append(own | {"file_name": file, "source_file": own["file_name"]})
            write_jsonl(folder / name / "metadata.jsonl", rows)
        facts = {key: images.info[key] for key in INHERITED if key in images.info}
        facts["counts"] = {name: len(places) for name, places in splits.items()}
        write_json(folder / "set.json", facts)


def names(images: ImageSet, places: Sequence[int]) -> list[str]:
    return [images.rows[place]["file_name"] for place in places]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="osteon folds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("family", choices=["dreambooth", "wgan-gp", "vae"])
    parser.add_argument("--config", required=True, type=Path, help="of the trainer")
    parser.add_argument("--data", required=True, help="data/x, data/x:split, or a plain folder")
    parser.add_argument("--out", required=True, type=Path, help="folder of the report")
    parser.add_argument("--folds", type=int, help="default: one a picture up to 6, else 5")
    parser.add_argument("--seeds", default="0-15", help="of every fold (default 0-15)")
    parser.add_argument("--extractor", default="auto", help="as of osteon compare")
    parser.add_argument(
        "--device",
        help="to draw and measure on: cpu, cuda, mps (default: the best at hand); the trainer "
        "takes the best at hand, and with ACCELERATE_USE_CPU=true the CPU",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default 0)")
    return parser


if __name__ == "__main__":
    main()
