"""The scores in forms that others read: a CSV, a model card's `model-index`, and a difference to an
older report."""

import csv
import io
from pathlib import Path
from typing import Any

import yaml

from compare.contract import Contract
from core.errors import UserError
from core.files import read_json

Results = dict[str, Any]
COLUMNS = (
    "label", "kind", "metric", "title", "value", "low", "high", "p", "interpretable",
    "extractor", "sha256", "real", "n_real", "n_fake",
)  # fmt: skip


def to_csv(results: Results) -> str:
    """One line per score."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, COLUMNS, restval="", extrasaction="ignore")
    table.writeheader()
    for row in _scores(results):
        table.writerow({key: "" if value is None else value for key, value in row.items()})
    return buffer.getvalue()


def to_model_index(results: Results) -> str:
    """The `model-index` block of a Hugging Face model card, an entry for each model."""
    name, _, split = results["real"]["held_out"]["name"].partition(":")
    dataset = {"name": name, "type": name, "split": split or "all"}
    entries = []
    for fake in results["fakes"]:
        kind = "text-to-image" if fake["prompts"] else "unconditional-image-generation"
        metrics = [
            {
                "type": row["metric"],
                "name": row["title"],
                "value": float(f"{row['value']:.6g}"),
                "args": {"n_fake": row["n_fake"], "n_real": row["n_real"], "95%": _span(row)},
            }
            for row in _scores(results)
            if row["label"] == fake["label"] and row["value"] is not None
        ]
        result = {"task": {"type": kind}, "dataset": dict(dataset), "metrics": metrics}
        entries.append({"name": fake["label"], "results": [result]})
    return yaml.safe_dump({"model-index": entries}, sort_keys=False, allow_unicode=True)


def read_results(file: Path) -> Results:
    """Of an older report: its results.json, or its folder. Raises UserError if it is neither."""
    old = read_json(file / "results.json" if file.is_dir() else file)
    if not isinstance(old, dict) or "tables" not in old:
        raise UserError(f"{file} is not a results.json of `osteon compare`.")
    return old


def against(results: Results, file: Path) -> dict[str, Any]:
    """What became of every score since an older results.json.

    Scores of unlike contracts are not set side by side: `reason` says what differs. Raises
    UserError if `file` is no results.json.
    """
    old = read_results(file)
    before = {(row["label"], row["metric"], row["extractor"]): row for row in _scores(old)}
    rows = []
    for row in _scores(results):
        earlier = before.get((row["label"], row["metric"], row["extractor"]))
        if earlier is None or row["kind"] != "fake":
            continue
        unlike = row["contract"].differences(earlier["contract"])
        reason = "; ".join(f"{k}: {theirs}, now {mine}" for k, (mine, theirs) in unlike.items())
        keys = ("label", "metric", "title", "value", "low", "high")
        before_keys = {f"old_{key}": earlier[key] for key in ("value", "low", "high")}
        rows.append({key: row[key] for key in keys} | before_keys | {"reason": reason})
    return {"title": old.get("title", ""), "made": old.get("made", ""), "rows": rows}


def _scores(results: Results) -> list[dict[str, Any]]:
    """Every score flat, on the scale that its title names."""
    found = []
    for table in results["tables"]:
        contract = Contract(**table["contract"])
        facts = {k: table["contract"][k] for k in COLUMNS if k in table["contract"]}
        for row in table["rows"]:
            for key, score in row["scores"].items():
                metric = table["metrics"][key]
                numbers = {
                    k: None if score[k] is None else score[k] * metric["scale"]
                    for k in ("value", "low", "high")
                }
                found.append(
                    {"label": row["label"], "kind": row["kind"], "metric": key}
                    | {"title": metric["title"], "contract": contract, "p": score.get("p")}
                    | {"interpretable": score["interpretable"]}
                    | numbers
                    | facts
                )
    return found


def _span(row: dict[str, Any]) -> list[float] | None:
    return None if row["low"] is None else [float(f"{row[k]:.6g}") for k in ("low", "high")]
