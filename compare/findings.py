"""Sentences from numbers: what a comparison found, and what it cannot say.

Pure functions of results.json; nothing here is chosen by hand.
"""

from typing import Any

from compare.wording import decimals_of, duration, fixed, number, percent, signed, with_interval

Results = dict[str, Any]
RAW_COSINE_IS_HIGH = 0.9
"""Above this the raw cosine of unseen images earns a warning."""


def findings(results: Results) -> list[str]:
    """What came out, most important first."""
    told: list[str] = []
    for table in main_tables(results):
        told += [line for line in _similarity(results, table) if line not in told]  # of real ones
        told += _ranking(results, table)
        told += _real_level(table)
        told += _agreement(table)
    told += _species(results)
    told += _copies(results)
    told += health(results)
    told += _raw_cosine(results)
    told += _costs(results)
    return told


def headline(table: dict[str, Any]) -> str:
    """The key of the metric that ranks a table."""
    return next(key for key in ("frechet", "kid", "legacy_fid") if key in table["metrics"])


def main_tables(results: Results) -> list[dict[str, Any]]:
    """Those on the first extractor, which the sentences are about."""
    name = results["extractor"]["name"]
    return [table for table in results["tables"] if table["contract"]["extractor"] == name]


def fakes_in_order(table: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Rows of generated sets, the best first."""
    sign = 1 if table["metrics"][key]["better"] == "lower" else -1
    rows = [row for row in table["rows"] if row["kind"] == "fake"]
    return sorted(rows, key=lambda row: sign * row["scores"][key]["value"])


def _ranking(results: Results, table: dict[str, Any]) -> list[str]:
    key = headline(table)
    metric, order = table["metrics"][key], fakes_in_order(table, key)
    scale, places = metric["scale"], decimals_of(table, key)
    real = "the real images" if results["real"]["same"] else "the held-out real images"

    def said(row: dict[str, Any]) -> str:
        return with_interval(row["scores"][key], scale, places)

    best = order[0]
    among = ""
    if len(main_tables(results)) > 1:
        among = f"Of the sets of {table['contract']['n_fake']:,} images, "
    if len(order) == 1:
        return [
            f"{among}{best['label']} is at {said(best)} from {real} ({_lower(metric['title'])})."
        ]
    told = [
        f"{among}{best['label']} is nearest to {real}: {said(best)} by {_lower(metric['title'])}."
    ]
    for row in order[1:]:
        gap = _difference(table, key, best["label"], row["label"])
        size = with_interval(gap, scale, places)
        verdict = (
            f"the gap of {size} is larger than chance in drawing the images explains"
            if gap["decided"]
            else f"the gap of {size} includes 0, so that no order between the two can be claimed"
        )
        told.append(f"{row['label']} has {said(row)}; {verdict}.")
    return told


def _real_level(table: dict[str, Any]) -> list[str]:
    """How far real images are from real images, and whether the best model comes as near."""
    key = headline(table)
    anchors = [row for row in table["rows"] if row["kind"] == "real"]
    if not anchors or key != "frechet":
        return []
    best, real = fakes_in_order(table, key)[0], anchors[0]
    text = fixed(real["scores"][key]["value"], decimals_of(table, key))
    count = f"s many other real images ({table['contract']['n_fake']:,})"
    if not _difference(table, key, real["label"], best["label"])["decided"]:
        return [f"By this score {best['label']} cannot be told from a{count}, with {text}."]
    times = best["scores"][key]["times_floor"]
    return [f"A{count} score {text}: {best['label']} is at {times:.1f} times that."]


def _agreement(table: dict[str, Any]) -> list[str]:
    if not {"frechet", "kid"} <= table["metrics"].keys():
        return []
    first, second = (
        [row["label"] for row in fakes_in_order(table, key)] for key in ("frechet", "kid")
    )
    if len(first) < 2:
        return []
    name = _lower(table["metrics"]["kid"]["title"].partition(" ×")[0])
    if first == second:
        return [f"The {name} puts them in the same order."]
    return [f"The {name} orders them otherwise: {', '.join(second)}."]


def _similarity(results: Results, table: dict[str, Any]) -> list[str]:
    """For few real images: what tuning changed, and where the band of the real images lies."""
    band = results["band"]
    if not results["few"] or "similarity" not in table["metrics"] or band is None:
        return []
    order = fakes_in_order(table, "similarity")
    rows = {row["label"]: row["scores"]["similarity"] for row in order}
    told = []
    base = results["base"]
    for label in rows:
        if base in rows and label != base:
            told.append(_tuning(base, label, rows, _difference(table, "similarity", base, label)))
    limits = f"{band['low']:.2f} to {band['high']:.2f}"
    told.append(f"Most real images have a similarity of {limits} with the nearest other real one.")
    for label, score in rows.items():
        text = with_interval(score, 1, 2)
        if score["value"] > band["high"]:
            told.append(f"{label}, with {text}, is above that: look for copies.")
        else:
            place = "within" if score["value"] >= band["low"] else "below"
            told.append(f"{label}, with {text}, is {place} that.")
    for label, share in results.get("species", {}).get("in_band", {}).items():
        if label in rows:
            told.append(f"{percent(share)} of the images of {label} lie in that band one by one.")
    return told


def _tuning(base: str, label: str, rows: dict[str, Any], gap: dict[str, Any]) -> str:
    change = f"{signed(gap['value'])} [{signed(gap['low'])}, {signed(gap['high'])}]"
    values = f"{rows[label]['value']:.2f} against {rows[base]['value']:.2f}"
    if not gap["decided"]:
        return f"{label} is not clearly nearer to the real images than {base}: {values}, {change}."
    way = "nearer to" if gap["value"] > 0 else "further from"
    return (
        f"{label} draws {way} the real images than {base} does: similarity {values}, a "
        f"difference of {change}."
    )


def _species(results: Results) -> list[str]:
    """For a few images of a species: taken for another one, and the class pulled along."""
    facts = results.get("species") or {}
    told = []
    for label, sides in facts.get("confusion", {}).items():
        own = next(iter(sides["fake"]))
        told.append(
            f"{percent(sides['fake'][own])} of {label} resemble {own} more than any other species; "
            f"of its real images, {percent(sides['real'][own])} do."
        )
    if "bleed" in facts:
        gap = facts["bleed"]
        change = f"{signed(gap['value'])} [{signed(gap['low'])}, {signed(gap['high'])}]"
        verdict = (
            "tuning has pulled the whole class towards the subject"
            if gap["bleeds"]
            else "no sign that tuning has pulled the class towards the subject"
        )
        told.append(
            f"Asked for the class without the name: similarity changes by {change}: {verdict}."
        )
    return told


def _copies(results: Results) -> list[str]:
    near = results["closest"]
    if near["held_out"] is None:
        return []
    count = f"{near['held_out_images']:,}"
    over = {k: row["share_above"] for k, row in near["sets"].items() if row["possible_copies"]}
    if not over:
        beside = "themselves" if near["leave_one_out"] else f"{count} unseen real images"
        return [
            "No sign of copies: no set is more like the training images than chance allows beside "
            f"{beside}."
        ]
    kind = (
        f"any of the {count} training images is to another"
        if near["leave_one_out"]
        else f"any of {count} unseen real images"
    )
    parts = " and ".join(f"{percent(share)} of {label}" for label, share in over.items())
    return [
        f"Possible copies: {parts} are more like a training image than {kind} (copy score "
        f"above {near['bound']:.3f})."
    ]


def _raw_cosine(results: Results) -> list[str]:
    near = results["closest"]
    unseen = near["held_out"]
    if unseen is None or unseen["raw_median"] < RAW_COSINE_IS_HIGH or near["leave_one_out"]:
        return []
    return [
        f"On raw pixels, unseen real images have a cosine of {unseen['raw_median']:.3f} with their "
        f"nearest training image, and pure noise has {near['noise']['raw_median']:.2f}: a high raw "
        "cosine says little about a model."
    ]


def _costs(results: Results) -> list[str]:
    """A training of which several sets are is told once."""
    times: dict[tuple[str, float], list[str]] = {}
    for fake in results["fakes"]:
        if "train_seconds" in fake["cost"]:
            run = fake.get("run") or fake["label"]
            times.setdefault((run, fake["cost"]["train_seconds"]), []).append(fake["label"])
    if not times:
        return []
    parts = [
        f"{duration(seconds)}, once for all"
        if len(own) == len(results["fakes"]) > 1
        else f"{' and '.join(own)} {duration(seconds)}"
        for (_, seconds), own in times.items()
    ]
    return [f"Training took: {', '.join(parts)}."]


def health(results: Results) -> list[str]:
    """What the trainers warned of, which the scores alone do not tell."""
    return [
        f"While {fake['label']} trained: {warning}"
        for fake in results["fakes"]
        for warning in fake.get("warnings", [])
    ]


def _lower(title: str) -> str:
    """A title inside a sentence: "Kernel distance" -> "kernel distance", but FID and names stay."""
    common = title[1].islower() and not title.startswith("Fréchet")
    return title[0].lower() + title[1:] if common else title


def _difference(table: dict[str, Any], key: str, first: str, second: str) -> dict[str, Any]:
    """second - first, whichever way round it is stored."""
    for row in table["differences"]:
        if row["metric"] == key and (row["first"], row["second"]) == (first, second):
            return row
        if row["metric"] == key and (row["first"], row["second"]) == (second, first):
            turned = {"value": -row["value"], "low": -row["high"], "high": -row["low"]}
            return row | turned
    raise KeyError((key, first, second))


def limits(results: Results) -> list[str]:
    """What the numbers do not say."""
    real, told = results["real"], []
    extractor = results["extractor"]
    if results["radiographs"]:
        told.append(
            "Not for diagnosis. Generated X-rays show no patient, and no score here says that a "
            "finding is drawn as it looks in people."
        )
    if not extractor["official"]:
        told.append(
            f"The features are those of {extractor['name']}, not of Inception in the weights of "
            "2015: the distances bear its name and cannot be set beside published FID or KID."
        )
    if extractor["name"] == "encoder-mini":
        told.append(
            "encoder-mini was trained on drawn phantoms at 64 pixels to read what is shown, and to "
            "see softness, noise and blocks. It may miss any other fault."
        )
    count = real["held_out"]["images"]
    if results["few"]:
        told.append(
            f"With {number(count)} real images no Fréchet distance is given; intervals are wide, "
            "and more generated images do not make up for missing real ones."
        )
    if real["same"]:
        told.append(
            "There are no held-out images: the scores are against the images that were learned "
            "from, so that a model that copies scores best."
        )
    tables = main_tables(results)
    if len(tables) > 1:
        least = min(table["contract"]["n_fake"] for table in tables)
        told.append(
            "The sets differ in number of images, and a Fréchet distance depends on it: they "
            f"stand in separate tables. Give --images {least} to compare all on as many."
        )
    told.append(
        "The intervals tell what other images of the same models would have scored (95 %, by "
        "resampling); how another training run would have come out is not in them."
    )
    told += _resized(results)
    return told


def _resized(results: Results) -> list[str]:
    size, mode = results["pixel_path"]["size"], results["pixel_path"]["mode"]
    others = [
        f"{fake['label']} ({fake['size'][0]} × {fake['size'][1]})"
        for fake in results["fakes"]
        if fake["size"] != [size, size]
    ]
    if not others:
        return []
    colour = "grey" if mode == "L" else "colour"
    return [
        f"Brought to the real images' {size} × {size} pixels in {colour} first, by centre crop and "
        f"Lanczos: {', '.join(others)}."
    ]
