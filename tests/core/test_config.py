"""The door for settings: precedence, refusals in one line, and a saved file that reads back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from core.complaints import kind_of, leaf_names, wanted
from core.config import from_dict, leaves, parse, to_dict, to_yaml
from core.errors import UserError
from core.families import FAMILIES, resolve
from core.runs import check_same_settings

ROOT = Path(__file__).resolve().parents[2]
ALL_SETTINGS = [
    *(family.settings for family in FAMILIES.values()),
    *(f"prepare.settings:{name}Settings" for name in ("Phantom", "Folder", "Nih", "Dicom")),
    "compare.encoder_settings:TrainEncoderSettings",
    "style.settings:StyleSettings",
]


@dataclass(frozen=True)
class Optim:
    """How to step."""

    lr: float = 1e-4
    """Learning rate."""


@dataclass(frozen=True)
class Adapter:
    """What to train."""

    rank: int = 4
    """Rank."""
    prompt: str | tuple[str, ...] = ""
    """One or more."""


@dataclass(frozen=True)
class Example:
    """Settings of a trainer that does not exist."""

    data: str
    """Prepared set."""
    optim: Optim = field(default_factory=Optim)
    adapter: Adapter | None = field(default_factory=Adapter)
    steps: int = 10
    """Steps."""
    prompt: str | None = None
    """What is shown."""
    words: list[str] | None = None
    """Which ones."""
    parts: tuple[Adapter, ...] = ()
    """More of them."""
    pair: tuple[str, ...] = ()
    """Two."""
    turned: bool = False
    """Whether they are."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_flags_win_over_files_wherever_they_stand(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "data: x\nsteps: 5\noptim:\n  lr: 2e-3\n")
    for words in (["--steps", "9", "--config", file], ["--config", file, "--steps", "9"]):
        settings = parse(Example, words, "").settings
        assert (settings.steps, settings.optim.lr, settings.data) == (9, 0.002, "x")


def test_a_later_file_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "data: x\nsteps: 5\n")
    second = write(tmp_path / "b.yaml", "steps: 7\n")
    assert parse(Example, ["--config", first, f"--config={second}"], "").settings.steps == 7


def test_dry_run_is_told_apart_and_not_saved() -> None:
    parsed = parse(Example, ["--data", "x", "--dry_run"], "")
    assert parsed.dry_run
    assert "dry_run" not in to_dict(parsed.settings)


def test_saved_settings_read_back_equal() -> None:
    settings = parse(
        Example, ["--data", "x", "--adapter", "null", "--optim.lr", "1e-5"], ""
    ).settings
    assert settings.adapter is None
    assert from_dict(Example, yaml.safe_load(to_yaml(settings))) == settings


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "x", "--stepz", "3"], "steps"),
        (["--data", "x", "--optim.l", "3"], "optim.lr"),
        (["--data", "x", "--steps", "many"], "^steps must be a whole number, not 'many'$"),
        (["--data", "x", "--steps", "null"], "^steps must be a whole number, not null$"),
        (["--data", "x", "--adapter.rank", "[1]"], "^adapter.rank must be a whole number, not"),
        (["--data", "x", "--adapter.rnk", "1"], "^There is no --adapter.rnk .* --adapter.rank"),
        (["--data", "x", "--adapter.zz", "1"], r"^There is no --adapter.zz .--adapter\.help lists"),
        (["--data", "x", "--zzzz", "1"], "^There is no --zzzz .--help lists"),
        (
            ["--data", "x", "--parts.rank", "1"],
            "^There is no --parts.rank; write --parts '.{rank: ",
        ),
        (["--data", "x", "--parts", "[{rnk: 1}]"], "^There is no --parts.rnk; write --parts '.{ra"),
        (["--data", "x", "--adapter", "5"], "^adapter must be settings like {rank: ..., prompt: "),
        (["--data", "x", "--optim", "5"], "^optim must be settings like {lr: ...}, not '5'$"),
        (["--data", "x", "--adapter", "false"], "^adapter must be settings .* null, not 'false'$"),
        (["--data", "x", "--words", "[[1]]"], "^words must be a list like .'one', 'two'. or null"),
        (["--data", "x", "--words", ""], "^words must be a list like .'one', 'two'. or null, not"),
        (
            ["--data", "x", "--words", "--steps", "3"],
            r"^--words needs a value, as in --words \"\['one', 'two'\]\"$",
        ),
        (["--data", "x", "--steps"], "^--steps needs a value, as in --steps 4$"),
        (["--optim.lr", "--data", "x"], r"^--optim\.lr needs a value, as in --optim\.lr 0\.5$"),
        (["--optim.lr", "-1e-3"], r"0\.5; one that begins with a dash goes as --optim\.lr=-1e-3$"),
        (["--data"], "^--data needs a value, as in --data TEXT$"),
        (["--adapter"], '^--adapter needs a value, as in --adapter "{rank: ..., prompt: ...}"$'),
        (["--adapter.rank"], r"^--adapter\.rank needs a value, as in --adapter\.rank 4$"),
        (["/x"], "^No option takes '/x'; a value stands behind its option, as in --data VALUE$"),
        (
            ["--data", "a", "dog"],
            """, and a text of several words in quotes, as in --data "a dog"$""",
        ),
        (["--data=a", "dog"], """^No option takes 'dog'; .* in quotes, as in --data "a dog"$"""),
        (["--steps", "3", "4"], "^No option takes '4'; .* as in --data VALUE$"),
        (["--words", "a", "b"], r""", and a list in brackets, as in --words "\[a, b\]"$"""),
        (["--pair", "a", "b"], r""", and a list in brackets, as in --pair "\[a, b\]"$"""),
        (["--stepz", "3", "4"], "^There is no --stepz"),
        (["-data", "x"], "^-data has one dash, and options have two: did you mean --data.$"),
        (["--prompt", "-step", "3"], "^-step has one dash, .*: did you mean --steps.$"),
        (["--steps", "3"], "^Give --data too"),
        (["--data", "x", "--steps", "0"], "at least 1"),
        (["--data", "x", "–steps", "3"], "begins with a dash of a web page; write --steps.$"),
        (["--data", "x", "--prompt", "“a", "dog”"], "^“a has the curly quotes of a web page"),
        (["--data", "x", "--prompt=“a", "dog”"], "^“a has the curly quotes of a web page"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--config"], "YAML"),
        (["--config", str(ROOT / "docs/species.png")], "YAML"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse(Example, words, "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int | None, "a whole number or null"),
        (str | tuple[str, ...], "text or a list like ['one', 'two']"),
        (Literal["a", "b"], "one of a, b"),
        (tuple[Literal["a", "b", "c"], ...], "a list like [a, b], of a, b, c"),
        (tuple[float, float], "a list like [0.5, 0.9]"),
        (tuple[Optim, ...], "a list like [{lr: ...}]"),
        (list[str] | None, "a list like ['one', 'two'] or null"),
    ],
)
def test_what_is_wanted_is_said_in_plain_words(kind: Any, words: str) -> None:
    assert wanted(kind) == words


def test_a_file_that_repeats_or_invents_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="twice"):
        parse(Example, ["--config", write(tmp_path / "a.yaml", "data: x\ndata: y\n")], "")
    with pytest.raises(UserError, match="steps"):
        parse(Example, ["--config", write(tmp_path / "b.yaml", "data: x\nstepz: 3\n")], "")
    for inner, near in (("lrr", "did you mean --optim.lr?"), ("zzzz", "--help lists the settings")):
        file = write(tmp_path / "d.yaml", f"data: x\noptim:\n  {inner}: 3\n")
        with pytest.raises(UserError) as caught:
            parse(Example, ["--config", file], "")
        assert str(caught.value) == f"There is no --optim.{inner} ({near})."
    with pytest.raises(UserError, match="not valid YAML"):
        parse(Example, ["--config", write(tmp_path / "c.yaml", "data: [x\n")], "")


@pytest.mark.parametrize("place", ALL_SETTINGS)
def test_a_setting_left_blank_in_a_file_is_refused(place: str, tmp_path: Path) -> None:
    """Whichever it is, but those that may be null."""
    settings_class, refused = resolve(place), 0
    leaves_of = leaf_names(settings_class)
    for name in {*leaves_of, *(name.partition(".")[0] for name in leaves_of)}:
        group, _, inner = name.rpartition(".")
        text = f"{group}:\n  {inner}:\n" if group else f"{name}:\n"
        file = write(tmp_path / "f.yaml", text)
        kind = wanted(kind_of(settings_class, name))
        if kind.endswith("or null"):
            continue
        with pytest.raises(UserError) as caught:
            parse(settings_class, ["--config", file], "")
        blank = f"{name} is given nothing in {file}; give {kind}, or leave the line out."
        assert str(caught.value) == blank
        refused += 1
    assert refused > 3


def test_a_setting_without_a_value_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    for text, said in (
        ("data: x\nparts:\n- rank:\n", "^parts.rank is given nothing in .*f.yaml; give a whole"),
        ("optim: 4\n", "^optim must be settings like {lr: ...}, not '4'$"),
        (
            "adapter: 4\n",
            "^adapter must be settings like {rank: ..., prompt: ...} or null, not '4'$",
        ),
        ("adapter: {prompt: [null]}\n", "^adapter.prompt must be text or a list like .* not "),
    ):
        file = write(tmp_path / "f.yaml", text)
        with pytest.raises(UserError, match=said):
            parse(Example, ["--config", file, "--data", "x"], "")
    for word in ("--adapter.rank=null", "--adapter={rank: null}"):
        with pytest.raises(UserError, match=r"^adapter\.rank must be .*, not null$"):
            parse(Example, ["--data", "x", word], "")
    with pytest.raises(UserError, match=r"^steps must be a whole number, not null$"):
        from_dict(Example, {"data": "x", "steps": None})
    assert from_dict(Example, {"data": "x", "adapter": None}).adapter is None


def test_leaves_are_dotted() -> None:
    assert leaves({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
    assert leaf_names(Example) == [
        *("data", "optim.lr", "adapter.rank", "adapter.prompt", "steps", "prompt", "words"),
        *("parts", "pair", "turned"),
    ]


TEXTS = [
    "#1 dog",
    "a photo: a dog",
    "- a dog",
    "&c",
    "a, b",
    "? a",
    "7",
    "“Sue”, a dog",
    "– a",
    "“Sue”",
    "‘80s film",
    "“a dog”",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_was_typed(text: str) -> None:
    """YAML would take it for a comment, a mapping, a list, ..."""
    words = [f"--{name}={text}" for name in ("data", "prompt", "adapter.prompt")]
    settings = parse(Example, words, "").settings
    assert (settings.data, settings.prompt, settings.adapter.prompt) == (text, text, text)
    assert from_dict(Example, yaml.safe_load(to_yaml(settings))) == settings


def test_a_path_in_the_home_folder_is_spelt_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell reads a file's values, nor what stands behind "="."""
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = "data: ~/x\nadapter: {prompt: [~/a, a dog ~/b, ~c/d]}\nwords: [~/e]\nprompt: ~\n"
    write(tmp_path / "a.yaml", lines)
    settings = parse(Example, ["--config=~/a.yaml", "--steps", "3"], "").settings
    home = str(tmp_path)
    assert settings.data == f"{home}/x"
    assert settings.adapter.prompt == (f"{home}/a", "a dog ~/b", "~c/d")
    assert (settings.words, settings.prompt) == ([f"{home}/e"], None)
    assert from_dict(Example, yaml.safe_load(lines)).data == f"{home}/x"
    assert yaml.safe_load(to_yaml(settings))["data"] == f"{home}/x"
    given = parse(Example, ["--data=~/y", "--prompt", "~", "--adapter.prompt=~/z"], "").settings
    assert (given.data, given.prompt, given.adapter.prompt) == (f"{home}/y", None, f"{home}/z")


def test_a_run_of_before_goes_on_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config.yaml says what was typed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"family": "toy"}')
    (run / "config.yaml").write_text("data: ~/x\nsteps: 5\n")
    check_same_settings(run, "toy", parse(Example, ["--data=~/x"], "").settings)
    with pytest.raises(UserError, match=f"data: {tmp_path}/x -> {tmp_path}/y"):
        check_same_settings(run, "toy", parse(Example, ["--data=~/y"], "").settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--words", "No Finding"], ["No Finding"]),
        (["--words=no, #1"], ["no", "#1"]),
        (["--words", "[a, b]"], ["a", "b"]),
        (["--words", "null"], None),
    ],
)
def test_words_need_no_brackets(given: list[str], words: list[str] | None) -> None:
    assert parse(Example, ["--data", "x", *given], "").settings.words == words


def test_a_switch_needs_no_value() -> None:
    for words in (["--turned"], ["--turned", "--steps", "3"], ["--turned", "true"]):
        assert parse(Example, ["--data", "x", *words], "").settings.turned
    assert not parse(Example, ["--data", "x", "--turned", "false"], "").settings.turned
    texts = ["--data", "- a", "--prompt", "-1", "--optim.lr", "-.5", "--adapter.prompt=-b"]
    settings = parse(Example, texts, "").settings
    assert (settings.data, settings.prompt, settings.optim.lr) == ("- a", "-1", -0.5)


def test_what_stands_in_brackets_is_yaml(tmp_path: Path) -> None:
    words = ["--data=x", "--adapter.prompt=['#1', b]", "--optim={lr: 1E-3}", "--prompt=null"]
    settings = parse(Example, words, "").settings
    assert (settings.adapter.prompt, settings.optim.lr) == (("#1", "b"), 1e-3)
    assert settings.prompt is None
    file = write(tmp_path / "a.yaml", "data: x")  # one line without an end
    assert parse(Example, ["--config", file], "").settings.data == "x"
