import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from compare.agreement import agreement, auroc, mean_auroc, requested

NAMES = ("findings=Mass", "findings=No Finding", "view=PA", "view=AP")


def test_what_prompts_name() -> None:
    found = requested(["chest X-ray, PA view, mass", "chest X-ray, no finding", "a pa"], NAMES)
    assert found[0].tolist() == [1, 0, 1, 0]
    assert found[1, :2].tolist() == [0, 1]
    assert np.isnan(found[1, 2:]).all()
    assert np.isnan(found[2]).all()


def test_auroc_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, 50), rng.integers(0, 9, 50)
    assert auroc(truth, score) == pytest.approx(roc_auc_score(truth, score))


def test_too_few_images_of_an_attribute_say_nothing() -> None:
    truth = np.array([[1.0, 1.0]] * 5 + [[0.0, 1.0]] * 5)
    score = np.arange(20.0).reshape(10, 2)
    found = mean_auroc(truth, -score, range(10), 0)
    assert found["attributes"] == 1
    assert found["value"] == 1
    assert mean_auroc(truth[:, 1:], score[:, 1:], range(10), 0) is None


def test_a_model_that_obeys_and_one_that_does_not() -> None:
    rng = np.random.default_rng(1)
    prompts = ["PA view, mass" if i % 2 else "AP view, no finding" for i in range(40)]
    truth = np.nan_to_num(requested(prompts, NAMES))
    obeys = truth * 4 + rng.normal(size=truth.shape)
    rows = agreement(
        NAMES,
        (obeys, prompts, range(40)),
        {"good": (obeys, prompts), "deaf": (rng.normal(size=truth.shape), prompts)},
        0,
    )
    assert [row["column"] for row in rows] == ["findings", "view"]
    for row in rows:
        assert row["sets"]["good"]["value"] > 0.95
        assert row["sets"]["deaf"]["low"] < 0.5 < row["sets"]["deaf"]["high"]
        assert row["real"]["value"] == row["sets"]["good"]["value"]
