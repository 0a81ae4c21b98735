"""Scores and a report.

    osteon compare --real data/x --fake runs/a runs/b some/folder --out reports/n

Features of each set are extracted once and kept by content. Writes results.json with everything
that was found, small copies of the pictures, and from these report.md and report.html.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from compare.agreement import agreement
from compare.asked import Asked, add_flags, check_replaceable, open_asked, real_facts
from compare.closest import closest, unseen_images, write_flags
from compare.contract import SCHEMA
from compare.cost import describe
from compare.exchange import against
from compare.features import PixelPath
from compare.measure import Setup, measure
from compare.pictures import Album, add_pairs, sections
from compare.report import write_report
from compare.sources import Fake, Real, open_fakes
from compare.species import species_facts
from compare.use import use
from compare.votes import people
from core.errors import Parser, UserError, command
from core.files import atomic_folder, write_json
from core.images import open_image
from core.parallel import process_state
from core.provenance import commit, now, versions
from core.sets import ImageSet


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    arguments = _parser().parse_args(argv)
    arguments.command = shlex.join(["osteon", "compare", *(sys.argv[1:] if argv is None else argv)])
    compare(arguments, open_asked(arguments))


def compare(arguments: argparse.Namespace, asked: Asked) -> None:
    """Measure, write results.json and the report, and say where it is.

    Args:
        arguments: flags of `osteon compare`, with the `command` that gave them.

    Raises UserError for sets that are not there, unfinished, or hold what is no image, and where
    another comparison's report would be lost.
    """
    state = process_state()
    real, extractor, device = asked.real, asked.extractor, asked.device
    bases = [arguments.base] if arguments.base else []
    fakes = open_fakes([*arguments.fake, *bases], arguments.images)
    drawn = {fake.folder: fake.images.fingerprint for fake in fakes}
    check_replaceable(arguments.out, real, drawn)
    base, axis = fakes[-1].label if bases else _base(fakes), None
    if arguments.axis:
        base = on_axis(arguments.axis, base) if base else None
        fakes, axis = along(arguments.axis, fakes)
    _say(f"Scored against {real.choice}: {len(real.held_out)} images.")
    _say(f"Features: {extractor.name} (SHA-256 {extractor.sha256[:8]}).")
    torch.backends.cudnn.allow_tf32 = False  # the same numbers on a GPU as on the CPU
    path = PixelPath(_side(real.held_out), real.held_out.mode)
    setup = Setup(extractor, path, device, arguments.batch, arguments.seed)
    began = time.monotonic()
    measured = measure(real, fakes, setup, asked.also)
    beside = (*asked.others.values(), *asked.class_images)
    for images in (real.train, unseen_images(real, setup.seed), *beside):
        setup.extract(images)  # by all processes; below, one alone finds them in the cache
    if state.is_main_process:
        near = closest(real, fakes, setup)
        write_flags(fakes, near.pop("flags"))
        results = _facts(arguments, real, fakes, setup) | measured
        results["base"] = base
        if real.few and measured["band"]:
            results["species"] = species_facts(real, fakes, asked.others, asked.class_images, setup)
        results["axis"] = axis
        results["agreement"] = _agreement(real, fakes, setup)
        epochs = arguments.use
        results["use"] = use(real, fakes, epochs, device, arguments.seed) if epochs else None
        labels = {fake.folder.resolve(): fake.label for fake in fakes}
        votes = arguments.votes
        results["people"] = people(votes, labels, arguments.seed) if votes else None
        results["against"] = against(results, arguments.against) if arguments.against else None
        with atomic_folder(arguments.out / "pictures") as folder:
            album = Album(folder)
            results["sections"] = sections(real, fakes, album, arguments.seed)
            results["closest"] = add_pairs(near, album)
            results["seconds"] = round(time.monotonic() - began, 1)
            # Before pictures/ has its name: alone, it would be taken for someone's own
            write_json(arguments.out / "results.json", results)
        print(f"Report: {write_report(arguments.out)}")
        print("Next: open it in a browser, or `osteon app`.")
    state.wait_for_everyone()


def along(name: str, fakes: Sequence[Fake]) -> tuple[list[Fake], dict[str, Any]]:
    """Sets whose labels are numbers, in their order and with the axis in their label, and where
    each lies on it. Raises UserError where a label is no number."""
    try:
        ordered = sorted(fakes, key=lambda fake: float(fake.label))
    except ValueError:
        raise UserError(
            "--axis needs sets named by numbers: --fake 32=FOLDER 64=FOLDER, --base 0=FOLDER."
        ) from None
    values = {on_axis(name, fake.label): float(fake.label) for fake in ordered}
    named = [replace(fake, label=on_axis(name, fake.label)) for fake in ordered]
    return named, {"name": name, "values": values}


def on_axis(name: str, label: str) -> str:
    """ "lora_scale", "0.5" -> "lora scale 0.5" """
    return f"{name.replace('_', ' ')} {label}"


def _agreement(real: Real, fakes: Sequence[Fake], setup: Setup) -> list[dict[str, Any]]:
    """Prompts against what the extractor reads, where it reads attributes."""
    if not setup.extractor.attributes:
        return []
    patients = [row.get("patient_id", i) for i, row in enumerate(real.held_out.rows)]
    made = {fake.label: (setup.extract(fake.images).logits, fake.prompts) for fake in fakes}
    held_out = (setup.extract(real.held_out).logits, real.held_out.captions, patients)
    return agreement(setup.extractor.attributes, held_out, made, setup.seed)


def _facts(
    arguments: argparse.Namespace, real: Real, fakes: Sequence[Fake], setup: Setup
) -> dict[str, Any]:
    """What results.json says besides numbers and pictures."""
    extractor = setup.extractor
    names = ("name", "sha256", "layer", "resize", "dtype", "official")
    return {
        "schema": SCHEMA,
        "title": arguments.title or f"Generated images against {real.name}",
        "made": now(),
        "command": arguments.command,
        **commit(),
        "versions": versions(),
        "device": setup.device,
        "radiographs": real.radiographs,
        "few": real.few,
        "real": _real_facts(real),
        "pixel_path": asdict(setup.path),
        "extractor": {name: getattr(extractor, name) for name in names},
        "fakes": [describe(fake) for fake in fakes],
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="osteon compare",
        description="Score generated images against real ones and write a report.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--fake",
        required=True,
        nargs="+",
        metavar="[NAME=]FOLDER",
        help="runs, samples folders of runs, data/X:split, or any folders of images",
    )
    parser.add_argument(
        "--axis", help="what the sets' names, all numbers, are values of: curves over it"
    )
    add_flags(parser)
    return parser


def _base(fakes: Sequence[Fake]) -> str | None:
    """The set by the untuned model, if there is exactly one beside others."""
    bases = [fake.label for fake in fakes if fake.is_base]
    return bases[0] if len(bases) == 1 and len(fakes) > 1 else None


def _real_facts(real: Real) -> dict[str, Any]:
    info = real.held_out.info
    return {
        "choice": real.choice,
        "same": real.same,
        "held_out": real_facts(real.held_out),
        "train": real_facts(real.train),
        "source": info.get("source", ""),
        "licence": info.get("licence", ""),
        "citation": info.get("citation", ""),
    }


def _side(images: ImageSet) -> int:
    """Pixels a side: a prepared set's own, or the shorter side of a folder's first image."""
    size = images.info.get("size")
    return int(size) if size else min(open_image(images.paths[0], images.mode).size)


def _say(line: str) -> None:
    if process_state().is_main_process:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
