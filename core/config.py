"""The one door for settings: defaults < YAML files < flags, into a frozen dataclass.

Only this module knows jsonargparse. Imports without torch.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jsonargparse
import yaml

from core.complaints import OPTION, check_filled, check_words, one_line, switches, word_lists
from core.errors import UserError, check_pasted

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)  # help of the fields
_load_yaml = jsonargparse.get_loader("yaml")
BASE = "base"
"""The setting that is a path or a hub id, found anew wherever a run is used: it stays as typed."""
NULLS = {"null", "Null", "NULL", "~"}
Settings = TypeVar("Settings")
DRY_RUN_HELP = "--dry_run checks all that is needed, prints the plan and writes nothing."


def _load(text: str, path: str | None = None) -> Any:
    """YAML, but a text in one line is never a comment, a list or a mapping without brackets.

    So a prompt may be "#1 dog" or "a photo: a dog".

    Args:
        path: of the file that it is from; None: a single value.
    """
    value = _load_yaml(text)
    single = path is None and "\n" not in text and not text.lstrip().startswith(("[", "{"))
    prose = isinstance(value, (dict, list)) or (value is None and text.strip() not in NULLS)
    return text if single and prose else value


jsonargparse.set_loader("yaml", _load, (yaml.YAMLError,))


class Parsed(NamedTuple):
    """What a command line said."""

    settings: Any
    dry_run: bool


def parse(settings_class: type, argv: Sequence[str] | None, description: str) -> Parsed:
    """Read `--config F ... --group.key value ...` into a `settings_class`.

    Files win over defaults and flags win over files, in whatever order they are typed. A text that
    begins with "~/" is a path in the home folder.
    `--print_config` prints the resolved YAML and leaves; `--dry_run` is handed to the caller.

    Raises:
        UserError: unknown key, wrong type, missing file, or settings that contradict each other.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    check_pasted(words)
    arguments = _configs_first(words, settings_class)
    dry_run = "--dry_run" in arguments  # no setting: it must not land in config.yaml
    arguments = [word for word in arguments if word != "--dry_run"]
    arguments = _switched_on(arguments, switches(settings_class))
    check_words(arguments, settings_class)
    arguments = _lists_bracketed(arguments, word_lists(settings_class))
    parser = _parser(settings_class, f"{description}\n\n{DRY_RUN_HELP}")
    try:
        parsed = parser.parse_args(arguments)
        check_filled(parsed.as_dict(), settings_class)
        values = vars(parser.instantiate(parsed))
        values.pop("config", None)
        return Parsed(settings_class(**_at_home(values)), dry_run)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(one_line(str(error), settings_class)) from None


def from_dict(settings_class: type[Settings], values: dict[str, Any]) -> Settings:
    """Build settings from a saved config.yaml. Raises UserError like `parse`."""
    parser = _parser(settings_class, "")
    check_filled(values, settings_class)
    try:
        built = vars(parser.instantiate(parser.parse_object(values)))
        built.pop("config", None)
        return settings_class(**_at_home(built))
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(one_line(str(error), settings_class)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a dict. Raises UserError where it is missing, damaged or repeats a key."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--config needs a YAML file, and '{path}' is not one.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold settings, one `name: value` a line.")
    return values


def to_dict(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain nested values, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(settings))


def filled(saved: dict[str, Any], settings_class: type) -> dict[str, Any]:
    """Saved settings with the defaults of those that came with a later version, and paths as
    `parse` gives them."""
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(settings_class):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if value is not dataclasses.MISSING:
            defaults[field.name] = to_dict(value) if _is_group(value) else _plain(value)
    found: dict[str, Any] = _at_home(_merged(defaults, saved))
    return found


def _at_home(value: Any) -> Any:
    """The same, where every text that begins with "~/" is a path in the home folder: no shell
    reads a file's values, nor what stands behind "=" in a flag."""
    if isinstance(value, (str, Path)):
        return type(value)(os.path.expanduser(value)) if str(value).startswith("~/") else value
    if isinstance(value, (list, tuple)):
        return type(value)(_at_home(item) for item in value)
    if isinstance(value, dict):
        return {
            _at_home(key): item if key == BASE else _at_home(item) for key, item in value.items()
        }
    if _is_group(value):
        own = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **_at_home(own))
    return value


def _is_group(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _merged(defaults: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    found = defaults | saved
    for key, value in saved.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            found[key] = _merged(defaults[key], value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_yaml(settings: Any) -> str:
    return yaml.safe_dump(to_dict(settings), sort_keys=False, allow_unicode=True)


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML lets a repeated key win in silence; here it is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key '{key}' stands twice")
        return super().construct_mapping(node, deep)


def _parser(settings_class: type, description: str) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; may be repeated")
    parser.add_class_arguments(settings_class, as_group=False)
    return parser


def _configs_first(arguments: list[str], settings_class: type) -> list[str]:
    """Move every `--config F` to the front, so that flags win wherever they stand.

    Raises UserError for a file that cannot be read, or leaves a setting without a value.
    """
    configs: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--config":
            configs += [word, next(words, "")]
        elif word.startswith("--config="):
            configs += ["--config", word.partition("=")[2]]
        else:
            others.append(word)
    configs = _at_home(configs)
    for file in configs[1::2]:
        check_filled(read_yaml(Path(file)), settings_class, file)
    return configs + others


def _switched_on(arguments: list[str], names: set[str]) -> list[str]:
    """`--buckets` alone as `--buckets true`, for the settings in `names`."""
    flags, found = {f"--{name}" for name in names}, []
    for word, after in zip(arguments, [*arguments[1:], None], strict=True):
        bare = word in flags and (after is None or OPTION.fullmatch(after))
        found += [word, "true"] if bare else [word]
    return found


def _lists_bracketed(arguments: list[str], lists: set[str]) -> list[str]:
    """`--findings A,B` as `--findings ["A", "B"]`, for the settings named in `lists`."""
    flags = {f"--{name}" for name in lists}
    found: list[str] = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        if equals and flag in flags:
            word = f"{flag}={_bracketed(value)}"
        elif found and found[-1] in flags:
            word = _bracketed(word)
        found.append(word)
    return found


def _bracketed(value: str) -> str:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    as_it_is = not parts or value in NULLS or value.startswith(("[", "-"))
    return value if as_it_is else json.dumps(parts)
