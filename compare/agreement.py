"""Is it what was asked for? Attributes named in the prompt against a reader's prediction, beside
the same reader on real images and their captions: the ceiling."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from compare.bootstrap import interval, resample_counts

LEAST = 5
"""Images with and without an attribute below which nothing is said of it."""
RESAMPLES = 200


def requested(prompts: Sequence[str], attributes: Sequence[str]) -> np.ndarray:
    """N x A from what the prompts name: 1 named, 0 not named while another value of the column is,
    NaN where the prompt is silent on the column.

    "view=PA" is named by the word "PA" (in capitals, as it is short), "findings=Mass" by "mass".
    """
    columns = [attribute.partition("=")[0] for attribute in attributes]
    named = np.array([[_names(p, a.partition("=")[2]) for a in attributes] for p in prompts], float)
    named = named.reshape(len(prompts), len(attributes))
    for column in dict.fromkeys(columns):
        places = [i for i, name in enumerate(columns) if name == column]
        silent = named[:, places].sum(1) == 0
        named[np.ix_(silent, places)] = np.nan
    return named


def auroc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a case with the attribute (truth 1) is scored above
    one without (truth 0), ties half."""
    ranks, positives = rankdata(score), truth.sum()
    wins = ranks[truth == 1].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(truth) - positives)))


def mean_auroc(truth: np.ndarray, score: np.ndarray, groups: Sequence[Any], seed: int) -> Any:
    """Mean AUROC over the attributes (columns of N x A) that have LEAST images with and without.

    Returns value, low, high (resampled by group) and how many attributes count; None if none does.
    """
    usable = [
        i
        for i in range(truth.shape[1])
        if min((truth[:, i] == 1).sum(), (truth[:, i] == 0).sum()) >= LEAST
    ]
    if not usable:
        return None

    def each(rows: np.ndarray) -> list[float]:
        found = []
        for i in usable:
            known = rows[~np.isnan(truth[rows, i])]
            both = len(np.unique(truth[known, i])) == 2
            found.append(auroc(truth[known, i], score[known, i]) if both else np.nan)
        return found

    everyone = np.arange(len(truth))
    values = each(everyone)
    counts = resample_counts(groups, RESAMPLES, seed, "agreement")
    drawn = np.array([np.nanmean(each(np.repeat(everyone, row))) for row in counts])
    low, high = interval(float(np.mean(values)), drawn)
    return {
        "value": float(np.mean(values)),
        "low": max(0.0, low),
        "high": min(1.0, high),
        "attributes": len(usable),
    }


def agreement(
    attributes: Sequence[str],
    real: tuple[np.ndarray, Sequence[str], Sequence[Any]],
    fakes: Mapping[str, tuple[np.ndarray, Sequence[str]]],
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each column of attributes that the generated sets' prompts name.

    Args:
        real: logits N x A, captions and patients of real images.
        fakes: label -> logits M x A and prompts.
    """
    rows = []
    for column in dict.fromkeys(attribute.partition("=")[0] for attribute in attributes):
        places = [i for i, name in enumerate(attributes) if name.partition("=")[0] == column]
        names = [attributes[i] for i in places]

        def score(
            logits: np.ndarray,
            prompts: Sequence[str],
            groups: Sequence[Any],
            names: Sequence[str] = names,
            places: Sequence[int] = places,
        ) -> Any:
            return mean_auroc(requested(prompts, names), logits[:, places], groups, seed)

        sets = {
            label: score(logits, prompts, range(len(prompts)))
            for label, (logits, prompts) in fakes.items()
        }
        if any(sets.values()):
            rows.append({"column": column, "real": score(*real), "sets": sets})
    return rows


def _names(prompt: str, value: str) -> bool:
    flags = 0 if len(value) <= 2 else re.IGNORECASE
    return re.search(rf"\b{re.escape(value)}\b", prompt, flags) is not None
