import gzip

import numpy as np
import pytest
from PIL import Image

from core.files import read_json
from core.sets import open_set
from prepare.nih import main
from prepare.nih_table import read_entries, years_of

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def line(patient, number, findings="No Finding", age="57", sex="M", view="PA"):
    name = f"{patient:08d}_{number:03d}.png"
    return f"{name},{findings},{number},{patient},{age},{sex},{view},2682,2749,0.143,0.143,\n"


@pytest.fixture
def download(tmp_path):
    """A small ChestX-ray14 as it comes: 12 patients, 2 images each, in two archives."""
    source = tmp_path / "download"
    rng = np.random.default_rng(0)
    text = HEADER
    for patient in range(1, 13):
        folder = source / f"images_{1 + patient // 7:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            findings = "Cardiomegaly|Pleural_Thickening" if patient % 3 == 0 else "No Finding"
            text += line(patient, number, findings, age="414" if patient == 2 else str(patient))
            grey = rng.integers(0, 256, (48, 48), dtype=np.uint8)
            image = Image.fromarray(grey)
            if patient == 4:  # some are RGBA, as in the wild
                image = image.convert("RGBA")
            if patient == 5:
                image = image.convert("RGB")
            image.save(folder / f"{patient:08d}_{number:03d}.png")
    text += line(99, 0)  # in the table, not on disk
    (source / "Data_Entry_2017.csv").write_text(text)
    return source


def prepare(source, out, *words):
    main(["--source", str(source), "--out", str(out), "--size", "48", "--workers", "1", *words])
    return read_json(out / "set.json")


def patients(out):
    return {
        split: {row["patient_id"] for row in open_set(out, split).rows}
        for split, count in read_json(out / "set.json")["counts"].items()
        if count
    }


def test_captions_columns_and_greys(download, tmp_path, capsys):
    info = prepare(download, tmp_path / "out")
    rows = [r for s in info["fingerprints"] for r in open_set(tmp_path / "out", s).rows]
    rows = {row["file_name"]: row for row in rows}
    assert len(rows) == 24
    assert rows["00000003_001.png"] == {
        "file_name": "00000003_001.png",
        "text": "chest X-ray, PA view, 3-year-old male, pleural thickening, cardiomegaly",
        "domain": "chest",
        "findings": ["Pleural_Thickening", "Cardiomegaly"],
        **{"view": "PA", "sex": "M", "age": 3, "patient_id": 3, "follow_up": 1},
    }
    # an age of 414 is reported and not said
    assert rows["00000002_000.png"]["age"] is None
    assert rows["00000002_000.png"]["text"] == "chest X-ray, PA view, male, no finding"
    assert rows["00000002_000.png"]["findings"] == ["No Finding"]
    assert info["ages_left_out"] == {
        "count": 2,
        "first": ["00000002_000.png: 414", "00000002_001.png: 414"],
    }
    assert info["missing"] == {"count": 1, "first": ["00000099_000.png"]}
    told = capsys.readouterr().out
    assert "2 impossible ages" in told
    assert "Next: osteon" in told
    # RGBA and RGB files: the very greys they hold
    for name in ("00000004_000.png", "00000005_001.png", "00000001_000.png"):
        made = Image.open(next((tmp_path / "out").glob(f"*/{name}")))
        assert made.mode == "L"
        stored = Image.open(next(download.rglob(name))).convert("RGB")
        assert np.array_equal(np.asarray(made), np.asarray(stored)[..., 0])


def test_patients_never_cross_splits(download, tmp_path):
    info = prepare(download, tmp_path / "out", "--validation", "0.25", "--test", "0.25")
    who = patients(tmp_path / "out")
    assert set(who) == {"train", "validation", "test"}
    assert sum(len(part) for part in who.values()) == len(set().union(*who.values())) == 12
    assert info["patients"] == {split: len(part) for split, part in who.items()}


def test_the_official_test_list_is_kept_and_validation_comes_out_of_the_rest(download, tmp_path):
    official = [f"{p:08d}_{n:03d}.png" for p in (3, 11) for n in range(2)]
    (download / "test_list.txt").write_text("\n".join(official) + "\n")
    info = prepare(download, tmp_path / "out", "--validation", "0.3")
    who = patients(tmp_path / "out")
    assert who["test"] == {3, 11}
    assert who["validation"]
    assert sum(len(part) for part in who.values()) == 12  # no patient is in two
    assert "official" in info["split_rule"]

    (download / "test_list.txt").unlink()
    rest = [p.name for p in download.rglob("*.png") if p.name not in official]
    (download / "train_val_list.txt").write_text("\n".join(rest))
    prepare(download, tmp_path / "again", "--validation", "0.3")
    assert patients(tmp_path / "again") == who


def test_findings_and_limit_choose_images(download, tmp_path, capsys):
    prepare(download, tmp_path / "some", "--findings", "[cardiomegaly]", "--test", "0.3")
    assert set().union(*patients(tmp_path / "some").values()) == {3, 6, 9, 12}
    assert sum(prepare(download, tmp_path / "five", "--limit", "5")["counts"].values()) == 5
    assert sum(prepare(download, tmp_path / "six", "--limit", "6")["counts"].values()) == 6
    names = [{p.name for p in (tmp_path / n).glob("*/*.png")} for n in ("five", "six")]
    assert names[0] < names[1]
    with pytest.raises(SystemExit):
        prepare(download, tmp_path / "none", "--findings", "[Cardiomegalie]")
    error = capsys.readouterr().err
    assert "'Cardiomegalie' is not in the table; known: Cardiomegaly, No Finding" in error


def test_a_gzipped_table_from_elsewhere_and_what_is_not_in_it(download, tmp_path):
    text = (download / "Data_Entry_2017.csv").read_text()
    (download / "Data_Entry_2017.csv").unlink()
    table = tmp_path / "Data_Entry_2017_v2020.csv.gz"
    kept = [row for row in text.splitlines() if not row.startswith("00000001")]
    table.write_bytes(gzip.compress("\n".join(kept).encode("utf-8-sig")))
    info = prepare(download, tmp_path / "out", "--table", str(table))
    assert info["table"] == table.name
    assert info["not_in_table"] == {
        "count": 2,
        "first": ["00000001_000.png", "00000001_001.png"],
    }
    assert sum(info["counts"].values()) == 22


def test_a_broken_image_is_listed_and_the_rest_goes_on(download, tmp_path):
    next(download.rglob("00000007_000.png")).write_bytes(b"\x89PNG\r\n\x1a\n")
    info = prepare(download, tmp_path / "out")
    assert [entry["file"] for entry in info["rejected"]] == ["00000007_000.png"]
    assert sum(info["counts"].values()) == 23


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "No Data_Entry_2017*.csv is in"),
        ({"Data_Entry_2017.csv": "what,is,this\n1,2,3\n"}, "has no row like those of"),
        ({"Data_Entry_2017.csv": HEADER + line(1, 0)}, "None of the 1 images of"),
    ],
)
def test_a_folder_that_is_no_download_is_one_clear_error(files, complaint, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, text in files.items():
        (tmp_path / "in" / name).write_text(text)
    with pytest.raises(SystemExit) as stop:
        prepare(tmp_path / "in", tmp_path / "out")
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_that_cannot_be_read_are_listed(tmp_path):
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_text(
        HEADER + line(1, 0) + line(1, 0) + "cut,off\n" + line(2, 0, age="", sex="?", view="LL")
    )
    table = read_entries(path)
    assert [entry.name for entry in table.entries] == ["00000001_000.png", "00000002_000.png"]
    assert [r["reason"] for r in table.rejected] == [
        "again in row 3 of the table",
        "2 cells where 7 are needed",
    ]
    second = table.entries[1]
    assert (second.age, second.sex, second.view) == (None, None, None)
    assert table.bad_ages == []  # missing is not impossible


@pytest.mark.parametrize(
    ("written", "years"),
    [
        *[("57", 57), ("058Y", 58), ("018M", 1), ("000D", 0), ("0", 0), ("119", 119)],
        *[("120", None), ("414", None), ("", None), ("old", None), ("-1", None)],
    ],
)
def test_ages(written, years):
    assert years_of(written) == years
