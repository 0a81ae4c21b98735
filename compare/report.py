"""report.md and one self-contained report.html, rendered from results.json and nothing else.

python -m compare.report reports/n      # renders again
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from compare import wording
from compare.charts import curve_chart, interval_chart, sweep_chart
from compare.contract import SCHEMA
from compare.exchange import to_csv, to_model_index
from compare.findings import fakes_in_order, findings, headline, limits
from compare.templating import html_templates, text_templates
from core.curves import Curves
from core.errors import Parser, UserError, command
from core.files import read_json, write_text

MOST_BYTES = 4_500_000  # of the page
NEAR_COLUMNS = (
    "raw_median", "centred_median", "feature_median", "copy_median", "copy_highest", "ms_ssim"
)  # fmt: skip
SIDES = (256, 192, 128, 96, 64)
"""Pictures are this large at most; the first size with which the page is small enough."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Render a report again from its results.json."""
    parser = Parser(prog="python -m compare.report", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder of a report, with results.json")
    print(f"Report: {write_report(parser.parse_args(argv).folder)}")


def write_report(folder: Path) -> Path:
    """Write report.md, scores.csv, model-index.yaml and report.html beside results.json and return
    the page's path.

    Raises UserError if results.json or one of its pictures is missing.
    """
    results = read_json(folder / "results.json")
    if results.get("schema") != SCHEMA:
        raise UserError(f"{folder} is by another version; run its `osteon compare` again.")
    write_text(folder / "report.md", markdown(results))
    write_text(folder / "scores.csv", to_csv(results))
    write_text(folder / "model-index.yaml", to_model_index(results))
    page = ""
    for side in SIDES:
        page = html(results, folder / "pictures", side)
        if len(page.encode()) <= MOST_BYTES:
            break
    write_text(folder / "report.html", page)
    return folder / "report.html"


def markdown(results: dict[str, Any]) -> str:
    """The report without pictures."""
    return text_templates().get_template("report.md.jinja").render(_view(results, markdown_text))


def html(results: dict[str, Any], pictures: Path, side: int) -> str:
    """The page, pictures at most `side` pixels a side inside it."""
    embedded: dict[str, str] = {}

    def picture(name: str) -> str:
        if name not in embedded:
            embedded[name] = data_uri(pictures / name, side)
        return embedded[name]

    curves = [
        (label, Markup(curve_chart(label, curves)))
        for label, curves in training_curves(results["fakes"]).items()
    ]
    charts = [
        Markup(interval_chart(table)) if {"frechet", "kid"} & table["metrics"].keys() else ""
        for table in results["tables"]
    ]
    sweep = Markup(sweep_chart(results)) if results["axis"] else ""
    view = _view(results, str) | {
        "sweep": sweep,
        "picture": picture,
        "curves": curves,
        "charts": charts,
    }
    return html_templates().get_template("report.html.jinja").render(view)


def training_curves(fakes: Sequence[dict[str, Any]]) -> dict[str, Curves]:
    """Each run's curves once, by the labels of all sets that it drew: of its latest weights, since
    those of earlier ones are their beginning."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for fake in fakes:
        if fake["curves"]:
            runs.setdefault(fake["run"], []).append(fake)
    return {
        ", ".join(fake["label"] for fake in own): max((f["curves"] for f in own), key=_last_step)
        for own in runs.values()
    }


def _last_step(curves: Curves) -> float:
    return max(curve["step"][-1] for curve in curves.values())


def data_uri(path: Path, side: int) -> str:
    """A picture inside the page: small ones exactly (PNG), larger ones as JPEG."""
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        raise UserError(
            f"{path} is missing or damaged; run `osteon compare` again to make it."
        ) from None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= 96 else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 88} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


MARKDOWN = {"\\": "\\\\", "`": "\\`", "*": "\\*", "_": "\\_", "|": "\\|", "#": "\\#"}
MARKDOWN |= {"<": "&lt;", ">": "&gt;", "](": "]\\(", "][": "]\\["}


def markdown_text(text: str) -> str:
    """Text from outside, without effect on Markdown or HTML around it."""
    plain = " ".join(str(text).split())
    for sign, safe in MARKDOWN.items():
        plain = plain.replace(sign, safe)
    return plain


def _view(results: dict[str, Any], clean: Any) -> dict[str, Any]:
    """What both templates print."""
    return {
        "r": results,
        "cards": _cards(results),
        "findings": [clean(line) for line in findings(results)],
        "limits": [clean(line) for line in limits(results)],
        "tables": [_table_view(table) for table in results["tables"]],
        "near": _near_view(results),
        "agreement": _agreement_view(results),
        "use": _use_view(results),
        "people": _people_view(results),
        "against": _against_view(results),
        "costs": [_cost_view(fake) for fake in results["fakes"]],
        "number": wording.number,
        "duration": wording.duration,
        "percent": wording.percent,
        "clean": clean,
    }


def _cards(results: dict[str, Any]) -> list[dict[str, Any]]:
    """For the top of the page: four pictures and the headline score, real images first."""
    scores: dict[str | None, tuple[str, str]] = {}
    for table in results["tables"]:
        key = headline(table)
        metric, places = table["metrics"][key], wording.decimals_of(table, key)
        for row in table["rows"]:
            if row["kind"] in ("fake", "real"):
                text = wording.with_interval(row["scores"][key], metric["scale"], places)
                label = row["label"] if row["kind"] == "fake" else None
                scores.setdefault(label, (metric["title"], text))
    cards = []
    for label in [None, *(fake["label"] for fake in results["fakes"])]:
        title, score = scores.get(label, ("", ""))
        cells = _first_cells(results["sections"], label)[:4]
        name = label or "Real images"
        cards.append({"label": name, "cells": cells, "title": title, "score": score})
    return cards


def _first_cells(sections: list[dict[str, Any]], label: str | None) -> list[dict[str, Any]]:
    """The first pictures of a generated set; of the real images (the first section) for None."""
    if label is None:
        return list(sections[0]["rows"][0]["cells"])
    for section in sections[1:]:
        if label in section["columns"]:
            place = section["columns"].index(label)
            return [row["cells"][place] for row in section["rows"]]
        for row in section["rows"]:
            if row["label"] == label:
                return list(row["cells"])
    return []


def _table_view(table: dict[str, Any]) -> dict[str, Any]:
    """Scores as text, generated sets first and the best of them on top; the metrics in a main
    part and, where there are more, a further one."""
    metrics = [metric | {"key": key} for key, metric in table["metrics"].items()]
    ranked = fakes_in_order(table, headline(table))
    rows = ranked + [row for row in table["rows"] if row["kind"] != "fake"]
    notes = [row["scores"][m["key"]]["note"] for m in metrics for row in ranked]
    parts = [[m for m in metrics if m["main"]], [m for m in metrics if not m["main"]]]
    return {
        "contract": table["contract"],
        "resamples": table["resamples"],
        "resampled": table["resampled"],
        "metrics": metrics,
        "parts": [
            {
                "metrics": part,
                "rows": [
                    {
                        "label": row["label"],
                        "kind": row["kind"],
                        "cells": [_cell_view(table, metric["key"], row) for metric in part],
                    }
                    for row in rows
                ],
            }
            for part in parts
            if part
        ],
        "notes": list(dict.fromkeys(filter(None, notes))),
    }


def _cell_view(table: dict[str, Any], key: str, row: dict[str, Any]) -> dict[str, str]:
    score, scale = row["scores"][key], table["metrics"][key]["scale"]
    places = wording.decimals_of(table, key)
    value = "–" if score["value"] is None else wording.fixed(score["value"] * scale, places)
    if row["kind"] in ("mean", "noise") and score["value"] is not None:
        value = wording.number(score["value"] * scale)
    times, p = score.get("times_floor"), score.get("p")
    return {
        "value": value,
        "span": "" if score["low"] is None else wording.span(score, scale, places),
        "times": f"{times:.1f} ×" if times and row["kind"] == "fake" else "",
        "p": "" if p is None else wording.p_value(p),
        "mark": "" if score["interpretable"] else "†",
    }


def _near_view(results: dict[str, Any]) -> dict[str, Any]:
    """The table of nearest training images: generated sets, then yardsticks."""
    near = results["closest"]
    rows = [{"label": label, "kind": "fake", **row} for label, row in near["sets"].items()]
    if near["held_out"]:
        label = (
            "Training images, each against the others"
            if near["leave_one_out"]
            else "Unseen real images"
        )
        rows.append({"label": label, "kind": "real", **near["held_out"]})
    rows.append({"label": "The mean training image", "kind": "mean", **near["mean"]})
    rows.append({"label": "Uniform noise", "kind": "noise", **near["noise"]})
    for row in rows:
        share, p = row.get("share_above"), row.get("p")
        row["share"] = "" if share is None else wording.percent(share)
        row["chance"] = "" if p is None else wording.p_value(p)
        for key in NEAR_COLUMNS:
            row[key] = f"{row[key]:.3f}" if row.get(key) is not None else ""
    return {"rows": rows, **{k: near[k] for k in ("bank", "pairs", "held_out_pairs", "bound")}}


def _agreement_view(results: dict[str, Any]) -> dict[str, Any] | None:
    """A column for each kind of attribute, a row for each set, real images last."""
    columns = results["agreement"]
    if not columns:
        return None
    rows = [
        {
            "label": label,
            "kind": "fake",
            "cells": [_auroc(column["sets"][label]) for column in columns],
        }
        for label in columns[0]["sets"]
    ]
    ceiling = [_auroc(column["real"]) for column in columns]
    rows.append({"label": "Real images and their captions", "kind": "real", "cells": ceiling})
    return {"columns": [column["column"] for column in columns], "rows": rows}


def _use_view(results: dict[str, Any]) -> dict[str, Any] | None:
    if results["use"] is None:
        return None
    keys = ("auroc", "sensitivity", "specificity")
    rows = [row | {"cells": [_auroc(row[key]) for key in keys]} for row in results["use"]["rows"]]
    return results["use"] | {"rows": rows}


def _auroc(score: dict[str, Any] | None) -> dict[str, str]:
    if score is None:
        return {"value": "–", "span": ""}
    return {"value": wording.fixed(score["value"], 2), "span": wording.span(score, 1, 2)}


def _people_view(results: dict[str, Any]) -> dict[str, Any] | None:
    """Votes and quiz answers as text."""
    people = results["people"]
    if people is None:
        return None

    def said(row: dict[str, Any], key: str) -> str:
        low, high = (wording.percent(row[name]) for name in ("low", "high"))
        return f"{wording.percent(row[key])} [{low}, {high}]"

    return {
        "strength": [row | {"text": said(row, "preferred")} for row in people["strength"]],
        "quiz": [
            row | {"text": said(row, "right"), "chance": wording.p_value(row["p"])}
            for row in people["quiz"]
        ],
    }


def _against_view(results: dict[str, Any]) -> dict[str, Any] | None:
    """What changed since an older report, as text; scores of unlike contracts give the reason."""
    old = results["against"]
    if old is None:
        return None

    rows = [
        row | {"now": wording.interval(row), "before": wording.interval(row, "old_")}
        for row in old["rows"]
    ]
    return old | {"rows": rows}


def _cost_view(fake: dict[str, Any]) -> dict[str, str]:
    cost = fake["cost"]

    def said(key: str, show: Any) -> str:
        return show(cost[key]) if cost.get(key) is not None else "–"

    parameters = [
        f"{wording.count(value)} {name.removesuffix('parameters').replace('_', ' ')}".strip()
        for name, value in cost.get("parameters", {}).items()
    ]
    return {
        "label": fake["label"],
        "family": fake["family"],
        "training": said("train_seconds", wording.duration),
        "steps": said("steps", wording.number),
        "rate": said("images_per_second", wording.number),
        "memory": said("train_peak_memory_mb", lambda mb: f"{mb:,.0f} MB"),
        "parameters": ", ".join(parameters) or "–",
        "weights": said("weights_mb", lambda mb: f"{mb:.1f} MB"),
        "generation": said("generation_seconds_per_image", lambda s: f"{s:.2g} s"),
        "device": fake["training"].get("device") or cost.get("generation_device") or "–",
    }


if __name__ == "__main__":
    main()
