"""What jsonargparse complains of, in plain words. Imports without torch."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from core.errors import UserError

OPTION = re.compile(r"-(?!\d+$|\d*\.\d+$)[^\s=]+(=.*)?", re.DOTALL)
"""What argparse never takes for the value of the option before: "-x" and "--x", but no "-1"."""
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def one_line(complaint: str, settings_class: type) -> str:
    """One sentence that names the setting, with the nearest known name for a wrong one."""
    text = " ".join(complaint.replace("<class '", "").replace("'>", "").split())
    text = text.replace("Parser key", "setting")
    text = re.sub(r" Subclass types expect.*?(?= - Expected|$)", "", text)
    text = re.sub(r"Group '([\w.]+)' does not accept option '(\w+)'", r"Option '\1.\2'", text)
    within = r"Problem with given class_path '[^ ]*': "
    if inner := re.search(rf"Does not validate .*?{within}(.*) - Exp", text):
        text = f"{text[: text.index(':')]}: {inner[1]}"  # wrong in a group that may be null
    text = re.sub(within, "", text)
    begins = re.match(r'(setting "[\w.]+": )*', text)
    place = re.findall(r'"([\w.]+)"', begins[0] if begins else "")
    if missing := re.search(r"the following arguments are required: (.+)", text):
        names = ", ".join("--" + ".".join([*place, name]) for name in missing[1].split(", "))
        return f"Give {names} too (--help says what each is)."
    unknown = re.search(r"arguments: --([\w.]+)|Option '([\w.]+)'", text)
    word = next((w for w in (unknown.groups() if unknown else ()) if w), None)
    if group := _listed(kind_of(settings_class, place[0])) if place else None:
        of_list = re.search(r"^[^:]*: Expected a dot import path string: (\w+)$", text)
        if within_list := word or (of_list and of_list[1]):
            listed = f"--{place[0]} '[{_examples(group)}]'"
            return f"There is no --{place[0]}.{within_list}; write {listed}, a list."
    if word and (name := ".".join([*place, word])) not in leaf_names(settings_class):
        return _no_such(name, settings_class)
    text = re.sub(r"Got value: .* (?=Given value type: )", "", text)  # of null, among the choices
    value = re.search(r"(?:Got|Given) value: ?(.*)|Unable to load config '(.*?)'", text)
    if not place or not value:
        return text
    said = next(v for v in value.groups() if v is not None)
    said, name = "null" if said == "None" else f"'{said}'", ".".join(place)
    return f"{name} must be {wanted(kind_of(settings_class, name))}, not {said}"


def check_words(words: Sequence[str], settings_class: type) -> None:
    """Raise UserError for a setting without its value, a word that is no setting's, and one dash in
    place of two."""
    if any(word == "-h" or word.endswith("help") for word in words):
        return
    flag, value = "", None
    for word, after in zip(words, [*words[1:], None], strict=True):
        name, equals, text = word.removeprefix("--").partition("=")
        kind = kind_of(settings_class, name) if name else None
        if word.startswith("--") and OPTION.fullmatch(word):
            if kind and not equals and (after is None or OPTION.fullmatch(after)):
                _check_dashes(after or "", settings_class)
                raise UserError(needs_value(name, kind, after))
            flag, value = name, text if equals or name == "print_config" else None
        elif flag and value is None:
            value = word
        else:
            _check_dashes(word, settings_class)
            if (
                flag
                and flag not in ("config", "print_config")
                and not kind_of(settings_class, flag)
            ):
                return  # it is no setting, which is the greater fault
            raise UserError(_stray(word, flag, value, settings_class))


def _check_dashes(word: str, settings_class: type) -> None:
    """Raise UserError for a setting behind one dash."""
    name = word[1:].partition("=")[0]
    near = difflib.get_close_matches(name, leaf_names(settings_class), n=1)
    if OPTION.fullmatch(word) and not word.startswith("--") and near:
        raise UserError(f"-{name} has one dash, and options have two: did you mean --{near[0]}?")


def needs_value(name: str, kind: Any, after: str | None = None) -> str:
    """That a setting has no value, with one of its kind; `after` is what stands in its place."""
    told = f"--{name} needs a value, as in --{name} {_example(kind)}"
    dashed = after is not None and not after.startswith("--")
    return told + (f"; one that begins with a dash goes as --{name}={after}" if dashed else "")


def _example(kind: Any) -> str:
    """A value of a kind as a shell takes it: "4", "'[1, 2]'", ..."""
    options = [option for option in typing.get_args(kind) if option is not types.NoneType]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return _example(options[0])
    if _is_literal(kind):
        return str(options[0])
    if typing.get_origin(kind) in (tuple, list):
        return f'"[{_examples(options[0])}]"'
    if dataclasses.is_dataclass(kind):
        return f'"{_examples(kind)}"'
    return {int: "4", float: "0.5", bool: "true"}.get(kind, "TEXT")


def _stray(word: str, flag: str, value: str | None, settings_class: type) -> str:
    """That no setting takes a word, which stands behind a `flag` and its `value`, if any do."""
    first = dataclasses.fields(settings_class)[0].name
    told = f"No option takes '{word}'; a value stands behind its option, as in --{first} VALUE"
    kind = kind_of(settings_class, flag)
    joined = typing.get_origin(kind) in (types.UnionType, typing.Union)
    options = typing.get_args(kind) if joined else (kind,)
    if str in options:
        return f'{told}, and a text of several words in quotes, as in --{flag} "{value} {word}"'
    if any(typing.get_origin(option) in (tuple, list) for option in options):
        return f'{told}, and a list in brackets, as in --{flag} "[{value}, {word}]"'
    return told


def _no_such(name: str, settings_class: type) -> str:
    """That a setting is unknown, with the nearest of its group."""
    known, group = leaf_names(settings_class), name[: name.rfind(".") + 1]
    group = group if any(other.startswith(group) for other in known) else ""
    own = [other.removeprefix(group) for other in known if other.startswith(group)]
    near = difflib.get_close_matches(name.removeprefix(group), own, n=1)
    hint = f"did you mean --{group}{near[0]}?" if near else ""
    hint = hint or f"--{_help_of(settings_class, name)} lists the settings"
    return f"There is no --{name} ({hint})."


def check_filled(
    values: dict[str, Any], settings_class: type, file: str = "", place: str = ""
) -> None:
    """Raise UserError for a setting without a value, or a group that is none: jsonargparse lets
    them pass where they come from a file, or stand within a group.

    Args:
        values: as read from `file`, or as parsed.
        place: of the group that they are in, such as "optim.".
    """
    for key, value in values.items():
        name, kind = f"{place}{key}", kind_of(settings_class, str(key))
        nullable = kind is None or types.NoneType in typing.get_args(kind)  # None: unknown
        if value is None and not nullable:
            if not file:
                raise UserError(f"{name} must be {wanted(kind)}, not null")
            remedy = f"give {wanted(kind)}, or leave the line out"
            raise UserError(f"{name} is given nothing in {file}; {remedy}.")
        if dataclasses.is_dataclass(kind) and not isinstance(value, dict):
            raise UserError(f"{name} must be {wanted(kind)}, not '{value}'")
        inner = _listed(kind) or _group(kind)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if inner and isinstance(item, dict):
                own = item.get("init_args", item)  # so jsonargparse keeps a group that may be null
                check_filled(own, inner, file, f"{name}.")


def wanted(kind: Any) -> str:
    """A type as a person would say it: int | None -> "a whole number or null"."""
    options = typing.get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if _is_literal(kind):
        return f"one of {', '.join(map(str, options))}"
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        found = [wanted(option) for option in options if option is not types.NoneType]
        return " or ".join(found + ["null"] * (types.NoneType in options))
    if typing.get_origin(kind) in (tuple, list):
        choice = typing.get_args(options[0]) if _is_literal(options[0]) else ()
        among = f", of {', '.join(choice)}" if len(choice) > 2 else ""
        return f"a list like [{_examples(options[0])}]{among}"
    return f"settings like {_examples(kind)}" if dataclasses.is_dataclass(kind) else "another"


def _examples(kind: Any) -> str:
    """Two of a kind, as they are typed."""
    if _is_literal(kind):
        return ", ".join(map(str, typing.get_args(kind)[:2]))
    if not dataclasses.is_dataclass(kind):
        return {int: "1, 2", float: "0.5, 0.9"}.get(kind, "'one', 'two'")
    names = [f"{field.name}: ..." for field in dataclasses.fields(kind)[:2]]
    return f"{{{', '.join(names)}}}"


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def kind_of(settings_class: type, name: str) -> Any:
    """The type of "steps" or "optim.lr"."""
    kind: Any = settings_class
    for part in name.split("."):
        group = _group(kind)
        kind = typing.get_type_hints(group).get(part) if group else None
    return kind


def _group(kind: Any) -> Any:
    """The group that a setting is, or may be; None for any other setting."""
    options = (kind, *typing.get_args(kind))
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _listed(kind: Any) -> Any:
    """The group of which a setting is a list; None for any other setting."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (tuple, list) else ()
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _help_of(settings_class: type, name: str) -> str:
    """Where a setting would be listed: groups that may be null have a help of their own."""
    head = name.partition(".")[0]
    options = typing.get_args(typing.get_type_hints(settings_class).get(head))
    return f"{head}.help" if any(map(dataclasses.is_dataclass, options)) else "help"


def word_lists(settings_class: type) -> set[str]:
    """Names of the settings that are lists of words; texts of a tuple may have commas."""
    kinds = {name: kind_of(settings_class, name) for name in leaf_names(settings_class)}
    return {n for n, kind in kinds.items() if list[str] in (kind, *typing.get_args(kind))}


def switches(settings_class: type) -> set[str]:
    """Names of the settings that are true or false."""
    return {n for n in leaf_names(settings_class) if kind_of(settings_class, n) is bool}


def leaf_names(settings_class: type) -> list[str]:
    """Dotted names of all settings: "steps", "optim.lr", ...; a list of groups has one."""
    names = []
    for field in dataclasses.fields(settings_class):
        kind = typing.get_type_hints(settings_class)[field.name]
        inner = [k for k in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(k)]
        if inner and not _listed(kind):
            names += [f"{field.name}.{name}" for name in leaf_names(inner[0])]  # type: ignore[arg-type]
        else:
            names.append(field.name)
    return names
