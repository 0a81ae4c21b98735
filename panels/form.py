"""A trainer's settings as fields of a form, read off its dataclass. Knows no Gradio."""

import dataclasses
import re
import types
import typing
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser
import yaml

from core.config import leaves, read_yaml
from core.errors import UserError
from core.families import FAMILIES, Family, resolve

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NOT_SHOWN = ("run_dir",)  # made of the run's name
PLACES = ("data", "base", "folder", "dir", "file", "path")
"""Last words in the names of settings that are files or folders: "base", "score_data"."""


@dataclass(frozen=True)
class Field:
    """One setting."""

    name: str
    """Dotted, as on the command line: "optim.lr"."""
    help: str
    choices: tuple[str, ...]
    """Of a Literal; () for free text."""
    boolean: bool
    default: str
    """As YAML in one line; "" where there is none."""


def trainer(family: str) -> Family:
    """Raises UserError for a name that is none of a family."""
    if family not in FAMILIES:
        raise UserError(f"There is no trainer '{family}'; there are {', '.join(FAMILIES)}.")
    return FAMILIES[family]


def fields_of(family: str) -> list[Field]:
    """All settings of a family's trainer, in the dataclass's order."""
    return list(_fields(resolve(trainer(family).settings), ""))


def presets_of(family: str) -> list[Path]:
    """Its YAML files under configs/."""
    folders = {CONFIGS / family, CONFIGS / Path(trainer(family).script).parent}
    return sorted(file for folder in folders for file in folder.glob("*.yaml"))


def values_of(family: str, file: Path | None) -> dict[str, str]:
    """What every field holds at first: the defaults, and what a preset or a run's config says."""
    values = {field.name: field.default for field in fields_of(family)}
    for name, value in leaves(read_yaml(file)).items() if file else ():
        if name in values:
            values[name] = shown(value)
        elif value is None:  # a group that is left out
            values |= {field: "" for field in values if field.startswith(f"{name}.")}
    return values


def changes(before: dict[str, str], after: dict[str, Any]) -> dict[str, str]:
    """Of the fields, those that the user changed, as the command line takes them."""
    found = {}
    for name, value in after.items():
        old, text = before.get(name, ""), shown(value).strip()
        if isinstance(value, bool):
            old = old or "false"
        if text != old:
            found[name] = text or "null"
    return found


def places(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of every setting that is a file or a folder, those of groups and of lists of
    groups too."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        for part in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(part):
                yield from places(part, f"{prefix}{item.name}.")
            elif part is not None and item.name.rpartition("_")[2] in PLACES:
                yield prefix + item.name, str(part)


def named(complaint: str, names: Container[str]) -> str:
    """The setting that a trainer's complaint begins with; "" where that is none of `names`.

    "lora.rank must be a whole number, not 'x'" -> "lora.rank"
    "Give --data too (--help says what each is)." -> "data"
    """
    name = re.match(r"(?:Give )?(?:--)?([\w.]+)", complaint)
    return name[1] if name and name[1] in names else ""


def shown(value: Any) -> str:
    """A value as YAML in one line: "true", "[0.5, 0.9]", "0.0001"; null is ""."""
    if value is None or value is dataclasses.MISSING:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    value = list(value) if isinstance(value, tuple) else value
    return (
        str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).split("\n...")[0].strip()
    )


def _fields(kind: type, prefix: str) -> Iterator[Field]:
    hints = typing.get_type_hints(kind)
    helps = {p.arg_name: p.description for p in docstring_parser.parse_from_object(kind).params}
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        group = next((option for option in options if dataclasses.is_dataclass(option)), None)
        off = item.default is None  # a group that is left out unless one of its fields is given
        if group is not None:
            for field in _fields(typing.cast(type, group), f"{prefix}{item.name}."):
                yield dataclasses.replace(field, default="", boolean=False) if off else field
        elif prefix + item.name not in NOT_SHOWN:
            literal = next((o for o in options if typing.get_origin(o) is typing.Literal), None)
            yield Field(
                prefix + item.name,
                " ".join((helps.get(item.name) or "").split()),
                tuple(str(choice) for choice in typing.get_args(literal)),
                hint is bool and not off,
                shown(_default(item)),
            )


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default
