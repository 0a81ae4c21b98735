import pytest

from prepare.captions import FINDING_ORDER, chest_caption, in_order
from prepare.chest import FINDINGS


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ((["Cardiomegaly"], "PA", "M", 57), "chest X-ray, PA view, 57-year-old male, cardiomegaly"),
        (([], "AP", "F", 3), "chest X-ray, AP view, 3-year-old female, no finding"),
        ((["Mass", "Effusion"], "PA", "M", None), "chest X-ray, PA view, male, effusion, mass"),
        ((["Pleural_Thickening"], None, None, None), "chest X-ray, pleural thickening"),
        (([], None, None, 40), "chest X-ray, 40-year-old patient, no finding"),
        ((None, "PA", "F", 40), "chest X-ray, PA view, 40-year-old female"),
    ],
)
def test_a_caption_says_what_is_known(facts, words):
    assert chest_caption(*facts) == words


def test_findings_stand_in_one_order_whatever_order_they_come_in():
    assert in_order(reversed(FINDING_ORDER)) == list(FINDING_ORDER)
    assert in_order(["Zebra", "Mass", "Ant", "Mass"]) == ["Mass", "Ant", "Zebra"]


def test_phantoms_know_no_finding_that_captions_do_not():
    assert set(FINDINGS) < set(FINDING_ORDER)
