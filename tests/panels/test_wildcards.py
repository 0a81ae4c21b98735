"""Choices in prompts are the seed's."""

from pathlib import Path

import pytest

from core.errors import UserError
from panels.wildcards import expand, names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    (tmp_path / "place.txt").write_text("# where\nin the {old|young} forest\nover a river\n")
    return tmp_path


def test_the_same_seed_takes_the_same_words(lists: Path) -> None:
    drawn = [expand("a {red|blue} bird __place__", seed, lists) for seed in range(40)]
    assert drawn == [expand("a {red|blue} bird __place__", seed, lists) for seed in range(40)]
    assert {text.split()[1] for text in drawn} == {"red", "blue"}
    assert {text.split("bird ")[1] for text in drawn} == {
        "in the old forest",
        "in the young forest",
        "over a river",
    }


def test_plain_prompts_stay(lists: Path) -> None:
    for text in ("a bird", "snake_case and {one}", "a __b"):
        assert expand(text, 3, lists) == text


@pytest.mark.parametrize("name", ["nowhere", "etc"])
def test_a_missing_list_gives_a_sentence(lists: Path, name: str) -> None:
    with pytest.raises(UserError, match="there are __place__"):
        expand(f"a __{name}__", 0, lists)
    assert expand("__../place__", 0, lists) == "__../place__"  # no way out of the folder


def test_our_own_lists_can_be_read() -> None:
    folder = ROOT / "prompts/wildcards"
    assert names(folder) == ["finding", "habitat", "view"]
    assert all(expand(f"__{name}__", 0, folder) != f"__{name}__" for name in names(folder))
