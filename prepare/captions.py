"""Chest X-ray captions in one form for phantoms and patients, so that a prompt means the same."""

from collections.abc import Iterable

FINDING_ORDER: tuple[str, ...] = (  # the labels of ChestX-ray14, the commoner first
    "Infiltration",
    "Effusion",
    "Atelectasis",
    "Nodule",
    "Mass",
    "Pneumothorax",
    "Consolidation",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Emphysema",
    "Edema",
    "Fibrosis",
    "Pneumonia",
    "Hernia",
)
NO_FINDING = "No Finding"
SEXES = {"M": "male", "F": "female"}


def in_order(findings: Iterable[str]) -> list[str]:
    """Findings once each, in FINDING_ORDER; unknown ones after, by name."""
    names = set(findings)
    known = [name for name in FINDING_ORDER if name in names]
    return known + sorted(names.difference(FINDING_ORDER))


def chest_caption(
    findings: Iterable[str] | None, view: str | None, sex: str | None, age: int | None
) -> str:
    """ "chest X-ray, PA view, 57-year-old male, cardiomegaly".

    Args:
        findings: names as in ChestX-ray14; an empty one means "no finding", None not said.
        view: "PA", "AP" or None (not said).
        sex: "M", "F" or None (not said).
        age: years, or None (not said).
    """
    who = SEXES.get(sex or "", "patient")
    words = ["chest X-ray"]
    if view:
        words.append(f"{view} view")
    if age is not None:
        words.append(f"{age}-year-old {who}")
    elif sex in SEXES:
        words.append(who)
    if findings is not None:
        named = [name.replace("_", " ").lower() for name in in_order(findings)]
        words += named or ["no finding"]
    return ", ".join(words)
