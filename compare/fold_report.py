"""report.md and report.html of `osteon folds`, from its results.json and pictures."""

from pathlib import Path
from typing import Any

from compare import wording
from compare.pictures import SIDE
from compare.report import data_uri
from compare.templating import html_templates, text_templates
from core.files import read_json, write_text


def findings(results: dict[str, Any]) -> list[str]:
    """What came out, in sentences."""
    tuned, base, learned = (results["means"][key] for key in ("tuned", "base", "learned"))
    count = len(results["folds"])

    def said(value: dict[str, float]) -> str:
        return (
            f"{value['mean']:.3f} (standard deviation {value['deviation']:.3f} over {count} folds)"
        )

    lines = [
        "Asked for pictures it has not seen, the model draws some with a similarity to them of "
        f"{said(tuned)}: cosine of features with the nearest one held out."
    ]
    gap = results["against_base"]
    if gap is not None:
        lines.append(
            f"Its base, before tuning: {said(base)}. The tuning moves it by "
            f"{wording.signed(gap['mean'])}, {chance(gap)}; with "
            f"{count} folds no p lies below {gap['least_p']:.2g}."
        )
    ahead = results["against_learned"]
    lines.append(
        f"The pictures that each model learned from: {said(learned)}. What the model draws is "
        f"{'farther' if ahead['mean'] < 0 else 'nearer'} than these by "
        f"{wording.fixed(abs(ahead['mean']), 2)}, {chance(ahead)}."
    )
    copies = results["copies"]
    share = wording.percent(copies["share_above"])
    lines.append(
        f"{'Possible copies: ' if copies['share_above'] > 0 else ''}{share} of "
        f"{copies['drawn']} generated pictures are more like one that their model learned from "
        f"than any of the {copies['unseen']} was while it was held out (copy score above "
        f"{copies['bound']:.3f})."
    )
    total = sum(row["seconds"] for row in results["folds"])
    lines.append(f"Training the {count} models took {wording.duration(total)}.")
    return lines


def chance(gap: dict[str, float]) -> str:
    """ "which chance may explain (p = 0.750)" """
    verdict = "more than chance explains" if gap["p"] < 0.05 else "which chance may explain"
    return f"{verdict} ({wording.p_value(gap['p'])})"


def write_report(out: Path) -> Path:
    """report.md and report.html from results.json and pictures/; the page's path."""
    results = read_json(out / "results.json")

    def picture(name: str) -> str:
        return data_uri(out / "pictures" / name, SIDE)

    view = {"r": results, "findings": findings(results), "picture": picture}
    write_text(out / "report.md", text_templates().get_template("folds.md.jinja").render(view))
    write_text(out / "report.html", html_templates().get_template("folds.html.jinja").render(view))
    return out / "report.html"
