"""Is an image set fit to learn from? `osteon doctor data/x`, and before the first step.

Rows of (fine, what, remedy), as `core.doctor` prints them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from core.alike import SIDE, hash_of, near
from core.errors import UserError
from core.images import TAKE, left_out, open_image
from core.kinds import find_clip, kinds_of, odd_ones
from core.sets import SPLITS, Empty, ImageSet, is_set, open_set
from core.tokens import MINI, TOKENS, tokens

Row = tuple[bool, str, str]
MOST = 4000  # images of a split that are looked at; the first ones
QUICK = 400  # of them before a run
READ = 400  # that CLIP reads, which takes it a tenth of a second each
BRIEF = 40  # of them before a run
NAMED = 3  # pairs or files named in a row


def check_set(path: str | Path, clip: Path | None = None, base: str | None = None) -> list[Row]:
    """All checks of a prepared set or a plain folder. Raises UserError where there is none.

    Args:
        clip: folder of a CLIP, for what the pictures show; None: one in the hub's cache, if any.
        base: whose tokens captions are counted in; None: the embedded one.
    """
    splits, hashes, rows = _survey(path, MOST, partial(_captions, base=base or MINI))
    clip = clip or find_clip()
    if clip is None:
        remedy = "skeletons among living animals are looked for with --clip FOLDER"
        return [*rows, (True, "no CLIP at hand", remedy)]
    return rows + _kinds(splits, hashes, clip, READ)


def warnings_of(path: str | Path, captions: bool, clip: Path | None = None) -> list[str]:
    """What is not fine with a set, in a look that takes moments.

    Args:
        captions: whether they are learned from; the trainer counts their tokens itself.
        clip: folder of a CLIP that looks at a few pictures; None: none does.
    """

    def covered(name: str, images: ImageSet) -> Row:
        return _captions(name, images) if captions else (True, "", "")

    splits, hashes, rows = _survey(path, QUICK, covered)
    rows += _kinds(splits, hashes, clip, BRIEF) if clip is not None else []
    return [f"{path}, {what} ({remedy})" for fine, what, remedy in rows if not fine]


def _survey(
    path: str | Path, most: int, captions: Callable[[str, ImageSet], Row]
) -> tuple[dict[str, ImageSet], dict[str, np.ndarray], list[Row]]:
    """Splits, hashes of their first images, and all rows but CLIP's."""
    folder = Path(str(path))
    splits, faults = {}, []
    if not is_set(folder):
        unread: list[Path] = []
        splits["images"] = open_set(folder, unread=unread)
        if unread:
            named = ", ".join(file.name for file in unread[:NAMED])
            what = f"images: {len(unread)} captions are not UTF-8 text ({named})"
            faults.append((False, what, "save them as such"))
    for split in SPLITS if is_set(folder) else ():
        if not (folder / split / "metadata.jsonl").exists():
            continue
        try:
            splits[split] = open_set(folder, split)
        except Empty:
            continue
        except UserError as error:
            what, _, remedy = str(error).rstrip(".").partition("; ")
            faults.append((False, f"{split}: {what}", remedy))
    if not splits and not faults:
        raise UserError(f"{folder} holds no image; make it with `osteon prepare` (see --help).")
    hashes: dict[str, np.ndarray] = {}
    rows = _unseen(folder) + faults
    for name, images in splits.items():
        found, own = _look(name, images, most)
        hashes[name] = found
        rows += [*own, captions(name, images), _repeats(name, images, found)]
    return splits, hashes, rows + _leaks(splits, hashes)


def _unseen(folder: Path) -> list[Row]:
    """Of a plain folder: pictures that are not taken from it, if there are any."""
    if is_set(folder) or not folder.is_dir() or not (said := left_out(folder)):
        return []
    return [(False, f"pictures not looked at: {said}", TAKE)]


def _look(name: str, images: ImageSet, most: int) -> tuple[np.ndarray, list[Row]]:
    """Perceptual hashes (N x 256 bool), and what was seen: sizes, colours, broken files."""
    hashes, broken, grey = [], [], 0
    sizes: Counter[int] = Counter()
    for path in images.paths[:most]:
        try:
            image = open_image(path, "RGB")
        except UserError:
            broken.append(path.name)
            hashes.append(np.zeros(SIDE**2, bool))
            continue
        sizes[min(image.size)] += 1
        pixels = np.asarray(image.resize((32, 32))).astype(int)
        grey += bool(np.ptp(pixels, axis=2).max() <= 2)
        hashes.append(hash_of(image))
    count = len(hashes)
    read = count - len(broken)
    span = f"{min(sizes, default=0)} to {max(sizes, default=0)} px"
    kind = (
        "grey" if 0 < grey == read else f"{grey} grey, {read - grey} colour" if grey else "colour"
    )
    mixed = "grey and colour are mixed: the model learns both" if 0 < grey < read else ""
    rows = [(not mixed, f"{name}: {len(images)} images, {span} at the shorter side, {kind}", mixed)]
    if count < len(images):
        rows.append((True, f"{name}: only the first {count:,} images were looked at", ""))
    if broken:
        named = ", ".join(broken[:NAMED])
        rows.append((False, f"{name}: {len(broken)} files cannot be read ({named})", "remove them"))
    return np.array(hashes), rows


def _captions(name: str, images: ImageSet, base: str | None = None) -> Row:
    """Coverage, variety, and those that the text encoder does not read to the end.

    Args:
        base: whose tokens are counted; None: none are.
    """
    texts = [text for text in images.captions if text.strip()]
    if not texts:
        return True, f"{name}: no captions", "give one --prompt for all"
    what = f"{name}: {len(texts)} captions, {len(set(texts))} distinct"
    if len(texts) < len(images):
        return False, what, f"{len(images) - len(texts)} images have none"
    if base is None:
        return True, what, ""
    long = sum(count for text, count in Counter(texts).items() if tokens(text, base) > TOKENS)
    if not long:
        return True, f"{what}, none longer than {TOKENS} tokens of {base}", ""
    cut = f"{long} are longer than {TOKENS} tokens of {base}, which reads no further"
    return False, what, f"{cut}; --base NAME counts another's"


def _repeats(name: str, images: ImageSet, hashes: np.ndarray) -> Row:
    pairs = near(hashes, hashes, same=True)
    named = [f"{images.paths[a].name} = {images.paths[b].name}" for a, b in pairs[:NAMED]]
    what = f"{name}: {len(pairs)} near-duplicates{': ' * bool(named)}{', '.join(named)}"
    return not pairs, what, "keep one of each, or they weigh double" * bool(pairs)


def _kinds(
    splits: dict[str, ImageSet], hashes: dict[str, np.ndarray], clip: Path, most: int
) -> list[Row]:
    """Skeletons and drawings among the first `most` life images of a split, by CLIP."""
    # Neither blank nor broken: some bit is set
    whole = {name: np.asarray(bits.any(axis=1)).tolist() for name, bits in hashes.items()}
    paths = {
        name: [path for path, fine in zip(images.paths, whole[name], strict=False) if fine][:most]
        for name, images in splits.items()
    }
    said = iter(kinds_of([path for own in paths.values() for path in own], clip))
    rows = []
    for name, own in paths.items():
        if not own:
            continue
        usual, odd = odd_ones([next(said) for _ in own])
        named = ", ".join(own[place].name for place in odd[:NAMED])
        what = f"{name}: most images show {usual}; {len(odd)} of {len(own)} a skeleton or a drawing"
        rows.append((not odd, what, f"look at {named}: the model learns them too" * bool(odd)))
    return rows


def _leaks(splits: dict[str, ImageSet], hashes: dict[str, np.ndarray]) -> list[Row]:
    """Patients and photographs that are in two splits at once."""
    if len(splits) < 2:
        return []
    rows = _patients(splits)
    for one, other in combinations(splits, 2):
        pairs = near(hashes[one], hashes[other])
        named = [f"{splits[one].paths[a].name} = {splits[other].paths[b].name}" for a, b in pairs]
        what = f"{len(pairs)} photographs of {one} also in {other}"
        remedy = f"{', '.join(named[:NAMED])}: scores on {other} would flatter" * bool(pairs)
        rows.append((not pairs, what, remedy))
    return rows


def _patients(splits: dict[str, ImageSet]) -> list[Row]:
    """How many are in two splits, if any image tells whose it is; and how many images do not."""
    owners, bare = defaultdict(set), 0
    for name, images in splits.items():
        for row in images.rows:
            patient = row.get("patient_id")
            if patient is None or patient == "":
                bare += 1
            else:
                owners[patient].add(name)
    if not owners:
        return []
    shared = [str(patient) for patient, names in owners.items() if len(names) > 1]
    what = f"{len(shared)} patients in two splits"
    if bare:
        count = sum(map(len, splits.values()))
        what += f", as far as is known: {bare} of {count} images have no patient_id"
    return [(not shared, what, "prepare anew" * bool(shared))]
