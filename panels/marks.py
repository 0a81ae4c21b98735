"""Fields that are wrong say so themselves: the browser reads in the status line which one it is."""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

WRONG = "osteon-wrong"
_MARK = """(status) => {
  const told = new DOMParser().parseFromString(status || '', 'text/html')
    .querySelector('[data-field]');
  const wrong = told ? told.dataset.field : '', before = KEPT || '', same = {__type__: 'update'};
  KEPT = wrong;
  const words = told ? told.textContent.trim() : '';
  const marks = FIELDS.map(([names, info]) =>
    names.includes(wrong) ? {...same, info: words, elem_classes: ['CLASS']}
    : names.includes(before) ? {...same, info: info, elem_classes: []} : same);
  const folds = FOLDS.map((names) => names.includes(wrong) ? {...same, open: true} : same);
  return [...marks, ...folds];
}"""


class Marks:
    """Of the fields of one request, by the names of the parameters that take them."""

    def __init__(self, fields: Mapping[str, Any], key: str) -> None:
        known = {name: part for name, part in fields.items() if hasattr(part, "info")}
        folds: dict[Any, list[str]] = {}
        for name, part in known.items():
            for fold in _folds(part):
                folds.setdefault(fold, []).extend(_names(name))
        self.outputs: list[Any] = [*known.values(), *folds]
        """What `js` fills: each field, and the folded parts that hold some."""
        infos = [[_names(name), part.info or ""] for name, part in known.items()]
        parts = {"KEPT": f"window.{key}", "CLASS": WRONG}
        parts |= {"FIELDS": json.dumps(infos), "FOLDS": json.dumps([*folds.values()])}
        self.js = _MARK
        """From a status line to the marks of what it complains of; "" takes them away."""
        for name, value in parts.items():
            self.js = self.js.replace(name, value)


def _names(name: str) -> list[str]:
    """Complaints of a "seed" are of the field "seeds", too."""
    return [name, name.removesuffix("s")]


def _folds(part: Any) -> list[Any]:
    """Accordions around a field."""
    found = []
    while (part := getattr(part, "parent", None)) is not None:
        if isinstance(part, gr.Accordion):
            found.append(part)
    return found
