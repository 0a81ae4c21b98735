"""Tables beside images that do not say what is asked of them."""

import pytest

from core.sets import open_set
from tests.prepare.test_folder import paint, prepare


@pytest.fixture
def source(tmp_path):
    for seed in range(4):
        paint(tmp_path / f"in/{seed}.png", seed=seed)
    return tmp_path / "in"


def refusal(source, capsys, *words):
    """What `osteon prepare folder` says, which writes nothing."""
    with pytest.raises(SystemExit) as stop:
        prepare(source, source.parent / "out", *words)
    assert stop.value.code == 2
    assert not (source.parent / "out").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["0.jpg,a", "1.jpg,a", "2.jpg,b", "3.jpg,b"], "4 of 4 images have no value (first: 0.png"),
        (["0.png,a", "1.png,a", "2.png,b"], "1 of 4 images has no value (first: 3.png)"),
        (["0.png,a", "1.png, ", "2.png,", "3.png,b"], "2 of 4 images have no value (first: 1.png)"),
    ],
)
def test_an_image_without_a_value_has_no_group(source, capsys, lines, said):
    """Each was its own group, and its patient in two splits."""
    (source / "metadata.csv").write_text("\n".join(["file_name,patient", *lines]))
    for words in ((), ("--dry_run",)):
        told = refusal(source, capsys, "--group", "patient", *words)
        assert f"--group patient: {said}" in told
        assert "give each one in metadata.csv, whose file_name is the file's own name with" in told
    assert prepare(source, source.parent / "free")["counts"]["train"] == 4


def test_patient_0_is_a_patient(source):
    rows = [f"{seed}.png,{seed // 2}" for seed in range(4)]
    (source / "metadata.csv").write_text("\n".join(["file_name,patient", *rows]))
    prepare(source, source.parent / "out", "--group", "patient", "--test", "0.5")
    out = source.parent / "out"
    parts = [open_set(out, name).rows for name in ("train", "test")]
    patients = [{row["patient"] for row in part} for part in parts]
    assert [len(part) for part in parts] == [2, 2]
    assert not patients[0] & patients[1]


def test_two_rows_of_a_file_must_agree(source, capsys):
    """The last one won in silence."""
    head = "file_name,text,patient\n0.png,a,p\n1.png,b,p\n"
    (source / "metadata.csv").write_text(head + "0.png,a,q\n")
    told = refusal(source, capsys)
    assert f"{source / 'metadata.csv'} has two rows of 0.png that differ; keep one" in told
    (source / "metadata.csv").write_text(head + "./0.png,a,p\n")
    prepare(source, source.parent / "out")
    assert open_set(source.parent / "out").captions == ["a", "b", "", ""]


def test_a_table_in_latin_1_is_told_from_a_broken_one(source, capsys):
    (source / "metadata.csv").write_bytes("file_name,text\n0.png,Käfer\n".encode("latin-1"))
    told = refusal(source, capsys)
    table = source / "metadata.csv"
    assert told == f"error: {table} is not UTF-8 text; save it as such (Excel: CSV UTF-8).\n"


def test_a_header_that_names_no_file_is_shown(source, capsys):
    """ "needs file_name in every row" was said of semicolons, or of a comma in a caption."""
    table = source / "metadata.csv"
    for mark in ";\t":
        for body in ("a cat", "a cat, asleep"):
            table.write_text(f"filename{mark}text{mark}patient\n0.png{mark}{body}{mark}1\n")
            told = refusal(source, capsys)
            assert f"{table} begins with 'filename{mark}text{mark}patient'".split() == (
                told.removeprefix("error: ").partition("; separate")[0].split()
            )
            assert "separate cells by commas, and call the first column file_name." in told
    table.write_text("filename,text\n0.png,a\n")
    assert f"{table} has no column file_name, only filename, text; call" in refusal(source, capsys)
    table.write_text("file_name,text\n0.png,a\n,b\n")
    assert "needs file_name in every row" in refusal(source, capsys)
