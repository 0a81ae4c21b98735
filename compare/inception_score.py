"""Inception Score (Salimans et al., 2016): exp of the mean KL divergence of p(class | image) from
p(class).

It never looks at a real image, and its classes are ImageNet's: on X-rays it says little.
"""

import numpy as np

SPLITS = 10


def inception_score(
    logits: np.ndarray, splits: int = SPLITS, seed: int | None = 2020
) -> tuple[float, float]:
    """Mean and deviation over `splits` parts of N x C unbiased logits, N at least `splits`.

    Shuffled first, as torch-fidelity does and draw for draw; seed None leaves the order.
    """
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    scores = split_scores(log_softmax(logits), splits)
    return float(np.mean(scores)), float(np.std(scores))


def inception_score_resamples(
    logits: np.ndarray, counts: np.ndarray, splits: int = SPLITS
) -> np.ndarray:
    """Mean score of R resamples: row r takes image i counts[r, i] times (R x N)."""
    log_p = log_softmax(logits)
    order = np.random.RandomState(0).permutation(int(counts[0].sum()))
    return np.array(
        [np.mean(split_scores(np.repeat(log_p, row, 0)[order], splits)) for row in counts]
    )


def split_scores(log_p: np.ndarray, splits: int) -> list[float]:
    """exp(mean KL) of every part of N x C log-probabilities."""
    scores = []
    for number in range(splits):
        part = log_p[number * len(log_p) // splits : (number + 1) * len(log_p) // splits]
        p = np.exp(part)
        divergence = (p * (part - np.log(p.mean(0)))).sum(1)
        scores.append(float(np.exp(divergence.mean())))
    return scores


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """N x C, float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
