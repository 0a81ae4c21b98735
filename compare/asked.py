"""What a command line asks of a comparison: its flags, and all that they name besides generated
images, opened before anything is measured or drawn."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare.exchange import read_results
from compare.extractors import NAMES, Extractor, choose_extractor
from compare.sources import Real, open_fakes, open_real
from compare.votes import read_votes
from core.errors import UserError, at_least_1
from core.files import HIDDEN, nearest_folder, read_json
from core.parallel import process_device
from core.sets import ImageSet, open_set


@dataclass(frozen=True)
class Asked:
    """Real images, extractors, and what else the generated images are set beside."""

    device: str
    real: Real
    extractor: Extractor
    also: Sequence[Extractor]
    others: Mapping[str, ImageSet]
    """Real images of other species, by their name."""
    class_images: Sequence[ImageSet]
    """None, or those of the model before and after tuning."""


def open_asked(arguments: argparse.Namespace) -> Asked:
    """Open what is named. Raises UserError for what is not there, or not what it should be."""
    device = process_device(arguments.device)
    _check_out(arguments.out)
    if arguments.images == 1:
        raise UserError("--images 1: a score needs two images of each set at the least; give more.")
    real = open_real(arguments.real, arguments.train)
    if len(real.held_out) < 2:
        raise UserError(
            f"--real: {real.choice} is one image; a score needs two at the least, so name another "
            "split or folder, or add images."
        )
    if arguments.base:
        open_fakes([arguments.base])
    if arguments.votes:
        read_votes(arguments.votes)
    if arguments.against:
        read_results(arguments.against)
    extractor = choose_extractor(
        arguments.extractor, arguments.inception_weights, arguments.encoder, device
    )
    if extractor.legacy:
        raise UserError("legacy-ignite stands beside honest scores: give it as --also instead.")
    also = [choose_extractor(name, device=device) for name in arguments.also]
    others = {(one := open_set(place)).name: one for place in arguments.others}
    class_images = [fake.images for fake in open_fakes(arguments.class_images or [])]
    return Asked(device, real, extractor, also, others, class_images)


def _check_out(out: Path) -> None:
    """Refuse to write among someone's files, be they pictures alone: a report's have results.json
    beside them, and pictures/ is replaced as a whole."""
    check_names(out, names_in(out))


def check_names(out: Path, there: set[str]) -> None:
    """Raise UserError for what no report holds: anything, where results.json is not beside it."""
    if there == {"pictures"}:
        raise UserError(
            f"{out} holds pictures/ without a report's results.json; move pictures/ away, or give "
            "another --out."
        )
    if there and "results.json" not in there:
        raise UserError(f"{out} holds something else; give another --out.")


def names_in(out: Path) -> set[str]:
    """What a report's folder holds; hidden files, such as a killed process leaves, are left out.

    Raises UserError where it is a file, or would lie below one.
    """
    nearest_folder(out, "out")
    found = out.iterdir() if out.exists() else ()
    return {entry.name for entry in found if not HIDDEN.match(entry.name)}


def check_replaceable(out: Path, real: Real, fakes: Mapping[Path, str | None]) -> None:
    """Raise UserError where `out` holds another comparison's report, which would be lost: one of
    other real images, or of none of these generated ones, that of the base aside.

    Args:
        fakes: folders of generated images, with their fingerprints where they are drawn already.
    """
    file = out / "results.json"
    if not file.exists() or not file.stat().st_size:
        return
    old = read_json(file)
    last = "give another --out, or delete that one."
    if not isinstance(old, dict) or "fakes" not in old:
        raise UserError(f"{out} holds a report of another kind; {last}")
    was, real_is = old["real"]["held_out"], real_facts(real.held_out)
    if was["fingerprint"] != real_is["fingerprint"] and not (
        was["name"] == real_is["name"]
        and Path(was.get("folder", "")).resolve() == Path(real_is["folder"]).resolve()
    ):
        raise UserError(f"{out} holds a report of other real images, {was['name']}; {last}")
    folders = {folder.resolve() for folder in fakes}
    others = [fake for fake in old["fakes"] if fake["label"] != old.get("base")]
    for fake in others:
        if fake["fingerprint"] in fakes.values() or Path(fake["folder"]).resolve() in folders:
            return
    labels = [fake["label"] for fake in others]
    named = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
    raise UserError(f"{out} holds a report of other generated images, {named}; {last}")


def real_facts(images: ImageSet) -> dict[str, Any]:
    """What results.json says of a set of real images."""
    patients = {row["patient_id"] for row in images.rows if "patient_id" in row}
    return {
        "name": images.name,
        "folder": str(images.folder or images.paths[0].parent),
        "images": len(images),
        "patients": len(patients) or None,
        "fingerprint": images.fingerprint,
    }


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `open_asked` reads, and those of how to measure."""
    parser.add_argument(
        "--real",
        required=True,
        help="prepared set (its held-out test split, where it has one), data/X:split, or a folder",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the report")
    parser.add_argument(
        "--train", help="where the nearest real image is sought (default: the set's train split)"
    )
    parser.add_argument(
        "--base", metavar="[NAME=]FOLDER", help="images of the model before tuning, to set beside"
    )
    parser.add_argument(
        "--images", type=at_least_1, help="use the first so many images of each set"
    )
    parser.add_argument("--title", help="of the report")
    parser.add_argument(
        "--others", nargs="+", default=[], metavar="SET", help="real images of other species"
    )
    parser.add_argument(
        "--class_images",
        nargs=2,
        metavar=("BASE", "TUNED"),
        help="images of the class prompt without the name, by the model before and after tuning",
    )
    parser.add_argument(
        "--use",
        type=at_least_1,
        metavar="EPOCHS",
        help="train classifiers of findings on real and on generated images, for so many epochs",
    )
    parser.add_argument("--votes", type=Path, help="folder of the app's votes (reports/votes)")
    parser.add_argument("--against", type=Path, help="an older report, to show what changed")
    _add_measuring(parser.add_argument_group("how to measure"))


def _add_measuring(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--extractor",
        default="auto",
        metavar="NAME",
        help=f"{', '.join(NAMES)}, a folder of CLIP or DINOv2, or a .safetensors file of "
        "torchxrayvision's DenseNet (default auto)",
    )
    group.add_argument(
        "--also", nargs="+", default=[], metavar="NAME", help="further extractors, each a table"
    )
    group.add_argument(
        "--inception_weights", type=Path, help="torch-fidelity's file of Inception's weights"
    )
    group.add_argument("--encoder", type=Path, help="folder of a small encoder")
    group.add_argument("--device", help="cpu, cuda, mps (default: the best at hand)")
    group.add_argument("--batch", type=at_least_1, default=64, help="images at once (default 64)")
    group.add_argument("--seed", type=int, default=0, help="of anchors and resamples (default 0)")
