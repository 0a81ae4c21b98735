"""Images from a run: `osteon generate --run runs/x --seeds 0-99 --prompts prompts/chest.txt`.

Seed s takes prompt s modulo the number of prompts. What is already there with the same settings is
kept, so a stopped command goes on. Several processes share the seeds.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from core.device import peak_memory_mb
from core.errors import Parser, UserError, at_least_1, command
from core.families import FAMILIES, Sampler, family_of, load_sampler
from core.files import read_json, read_jsonl, write_json, write_jsonl
from core.images import fingerprint_of, png_text, write_png
from core.parallel import process_device, process_state
from core.prompts import read_prompts
from core.runs import named, samples_folder, trained_steps

SETTINGS_KEY = "osteon"
"""PNG text chunk that holds an image's settings as JSON."""
MOST_SEEDS = 1_000_000  # of one command; a slip of the keys is soon more than memory holds
LARGEST_SEED = 2**64 - 1  # that torch's generators take


def options_help() -> str:
    """A line or so for the families that take the same options."""
    names: dict[str, list[str]] = {}
    for name, family in FAMILIES.items():
        names.setdefault(family.options, []).append(name)
    lines = [f"  {', '.join(own)}: {options}" for options, own in names.items()]
    return "\n".join(["Options of the family may follow:", *lines])


def read_seeds(text: str) -> list[int]:
    """ "0-3,8" -> [0, 1, 2, 3, 8].

    Raises UserError for anything else, and for more or larger seeds than can be drawn.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            span = range(int(first), int(last or first) + 1)
            if span.stop - 1 > LARGEST_SEED:
                raise UserError(
                    f"--seeds '{text}' has one above {LARGEST_SEED}; give smaller ones."
                )
            if len(seeds) + span.stop - span.start > MOST_SEEDS:
                raise UserError(
                    f"--seeds '{text}' names more than {MOST_SEEDS:,} seeds; give fewer at once."
                )
            seeds += span
    except ValueError:
        raise UserError(f"--seeds '{text}' is not like 0-99 or 1,5,7.") from None
    if not seeds:
        raise UserError(f"--seeds '{text}' names no seed; write 0-99 or 1,5,7.")
    return list(dict.fromkeys(seeds))


def generate(
    run: Path,
    seeds: Sequence[int],
    prompts: Sequence[str] | None = None,
    name: str = "default",
    batch: int = 16,
    device: str | None = None,
    dtype: str = "fp32",
    options: dict[str, Any] | None = None,
    sampler: Sampler | None = None,
) -> Path:
    """Write one PNG per seed to the run's samples/<name>/ and samples.jsonl beside them.

    Args:
        prompts: seed s takes prompts[s % len(prompts)]; None: the run's own.
        dtype: "fp32", "fp16" or "bf16", of the network's arithmetic (autocast).
        options: family's settings of a call (steps, guidance...).
        sampler: of `run`, where it is in memory already.

    Returns the folder. Raises UserError for an unknown option, a value that it cannot have, or a
    folder of other settings; then nothing is written.
    """
    state = process_state()
    device = process_device(device)
    run = named(run)  # "." is a name for no images
    sampler = sampler or load_sampler(run, device)
    given = options or {}
    _check_names(run, name, given, sampler.options)
    settings = settings_of(run, dtype, sampler.options | given)
    prompts = list(prompts) if prompts else sampler.default_prompts
    folder = samples_folder(run, name)
    record = settings | made_of(run, settings)
    _check_same(folder, record, sampler.options)
    wanted = {seed: prompts[seed % len(prompts)] for seed in seeds}
    missing = [seed for seed in seeds if not _is_done(folder, seed, wanted[seed])]
    state.wait_for_everyone()  # all have seen what is missing before one draws
    mine = missing[state.process_index :: state.num_processes]
    began = time.monotonic()
    title = f"{run.name}/{name}"
    with tqdm(total=len(mine), desc=title, unit="image", disable=not state.is_main_process) as bar:
        for first in range(0, len(mine), batch):
            chunk = mine[first : first + batch]
            texts = [wanted[seed] for seed in chunk]
            with torch.inference_mode(), autocast(device, dtype):
                images = sampler(chunk, texts, **given)
            if first == 0 and state.is_main_process:  # after what the sampler refuses
                write_json(folder / "settings.json", record)
            for seed, prompt, image in zip(chunk, texts, images, strict=True):
                write_sample(image, folder / f"{seed:06d}.png", seed, prompt, settings)
            bar.update(len(chunk))
    state.wait_for_everyone()
    if state.is_main_process:
        _write_index(folder)
        if missing:
            _write_cost(folder, len(missing), time.monotonic() - began, device)
    return folder


def _write_cost(folder: Path, images: int, seconds: float, device: str) -> None:
    """What the newest images took, for reports."""
    cost = {
        "images": images,
        "seconds": round(seconds, 2),
        "device": device,
        "processes": process_state().num_processes,
        "peak_memory_mb": peak_memory_mb(torch.device(device)),
    }
    write_json(folder / "cost.json", cost)


def _check_names(run: Path, name: str, given: dict[str, Any], known: dict[str, Any]) -> None:
    """Raise UserError for a set that is no plain folder, and an option that the family lacks."""
    if name in ("", "..") or name != Path(name).name:
        raise UserError(f"--set '{name}' should be a plain name, of a folder under samples/.")
    for key in given:
        if key not in known:
            names = ", ".join(known) or "none"
            raise UserError(f"{family_of(run)} knows no option --{key} (it knows: {names}).")


def settings_of(run: Path, dtype: str, options: dict[str, Any]) -> dict[str, Any]:
    """What besides seed and prompt makes an image: the model, its state of training, the call."""
    step = trained_steps(run, str(options.get("weights", "newest")))
    family = family_of(run)
    return {"run": run.name, "family": family, "trained_steps": step, "dtype": dtype, **options}


def made_of(run: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What settings do not say, and images depend on: of a folder that is no run, which files it
    has, as others have its name; of LoRA runs mixed in, after how many steps they are."""
    loras = settings.get("loras")  # as typed: whether they can be is the sampler's to say
    names = loras if isinstance(loras, dict) else {}
    mixed = {name: trained_steps(Path(name)) for name in names}
    found: dict[str, Any] = {"mixed_steps": mixed} if mixed else {}
    return found if (run / "run.json").exists() else found | {"files": _digest(run)}


def _digest(folder: Path) -> str:
    """Of all weights in it."""
    files = sorted(folder.rglob("*.safetensors"))
    return fingerprint_of(
        (str(file.relative_to(folder)), _digest_of(file, file.stat().st_mtime_ns)) for file in files
    )


@cache
def _digest_of(file: Path, written: int) -> bytes:
    """SHA-256 of a file last written then (ns), read once however often images are asked for."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def autocast(device: str, dtype: str) -> torch.autocast:
    """The arithmetic of "fp32", "fp16" or "bf16"."""
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype)
    return torch.autocast(device.split(":")[0], kind, enabled=kind is not None)


def write_sample(
    image: Image.Image, path: Path, seed: int, prompt: str, settings: dict[str, Any]
) -> None:
    """A PNG that carries what made it (read back by `core.images.png_text`)."""
    facts = json.dumps({"seed": seed, "prompt": prompt, **settings}, ensure_ascii=False)
    write_png(image, path, {SETTINGS_KEY: facts}, synthetic=True)


def _check_same(folder: Path, settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """`defaults` stand for options that the folder's older version did not know; of what else it
    did not record, anything may be true."""
    file = folder / "settings.json"
    if not file.exists():
        return
    old = defaults | read_json(file)
    changes = [f"{k}: {old[k]} -> {v}" for k, v in settings.items() if old.get(k, v) != v]
    if changes:
        raise UserError(
            f"{folder} was made with other settings ({'; '.join(changes)}); "
            "give --set another name, or delete that folder."
        )


def _is_done(folder: Path, seed: int, prompt: str) -> bool:
    """Whether the seed need not be drawn (again, where a power cut left half a picture).

    Raises UserError where it is there with another prompt.
    """
    file = folder / f"{seed:06d}.png"
    facts = _facts_of(file) if file.exists() else None
    if facts is None:
        return False
    if (old := facts.get("prompt")) != prompt:
        raise UserError(
            f"{file} was made with another prompt ('{old}', now '{prompt}'); give --set another "
            "name, or delete that folder."
        )
    return True


def _facts_of(file: Path) -> dict[str, Any] | None:
    """What made a picture; {} of one from elsewhere, None of one that cannot be read."""
    try:
        facts: dict[str, Any] = json.loads(png_text(file).get(SETTINGS_KEY, "{}"))
    except (OSError, SyntaxError, ValueError):  # as PIL tells of empty, cut and garbled files
        return None
    return facts


def _write_index(folder: Path) -> None:
    """samples.jsonl from the PNGs themselves; other columns of older rows are kept."""
    index = folder / "samples.jsonl"
    older = {row["file"]: row for row in read_jsonl(index)} if index.exists() else {}
    rows = []
    for path in sorted(folder.glob("*.png")):
        facts = _facts_of(path)
        if facts is None or "seed" not in facts:  # not drawn here
            continue
        row = {"file": path.name, "seed": facts.pop("seed"), "prompt": facts.pop("prompt")}
        rows.append(older.get(path.name, {}) | row | {"settings": facts})
    write_jsonl(index, rows)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        prog="osteon generate",
        description="Images from a run, one PNG per seed.",
        epilog=options_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run", required=True, type=Path, help="run folder or diffusers model folder"
    )
    add_seeds(parser, "0-15")
    parser.add_argument("--set", default="default", help="name of the folder under samples/")
    parser.add_argument("--batch", type=at_least_1, default=16, help="images at once (default 16)")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the best at hand)")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32")
    arguments, rest = parser.parse_known_args(argv)
    folder = generate(
        arguments.run,
        *asked_seeds(arguments),
        arguments.set,
        arguments.batch,
        arguments.device,
        arguments.dtype,
        read_options(rest),
    )
    if process_state().is_main_process:
        print(f"{len(list(folder.glob('*.png')))} images in {folder}")
        drawn = shlex.quote(str(folder))
        print(f"Next: osteon compare --real data/SET --fake {drawn} --out reports/NAME")


def add_seeds(parser: argparse.ArgumentParser, default: str) -> None:
    """Flags of what is drawn; `asked_seeds` reads them."""
    parser.add_argument("--seeds", default=default, help=f"0-99 or 1,5,7 (default {default})")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--prompt", help="one prompt for all seeds")
    choice.add_argument(
        "--prompts", help="file with one prompt a line, or data/SET:test (captions)"
    )


def asked_seeds(arguments: argparse.Namespace) -> tuple[list[int], list[str] | None]:
    """Seeds and prompts; no prompts: the run's own. Raises UserError for what is neither."""
    seeds = read_seeds(arguments.seeds)
    if arguments.prompts:
        return seeds, read_prompts(arguments.prompts)
    return seeds, [arguments.prompt] if arguments.prompt else None


def read_options(words: list[str]) -> dict[str, Any]:
    """["--steps", "25", "--eta=0"] -> {"steps": 25, "eta": 0}. Raises UserError for what is no
    pair."""
    options: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        name, equals, text = word.partition("=")
        value = text if equals else next(left, None)
        if not name.startswith("--") or value is None:
            raise UserError(f"Cannot read '{' '.join(words)}'; options go as --name value.")
        try:
            options[name[2:]] = json.loads(value)
        except json.JSONDecodeError:
            options[name[2:]] = value
    return options


if __name__ == "__main__":
    sys.exit(main())
