import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from core.files import read_json
from core.sets import open_set
from prepare.dicom import main
from prepare.radiographs import load_radiograph

RAMP = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (64, 1))  # 64 x 64, 0 to 4032


def write(path, pixels=RAMP, **tags):
    """A 12-bit chest radiograph of Jane Doe; `tags` are set on top, None removes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        **{"PatientName": "Doe^Jane", "PatientID": "JD-1", "PatientSex": "F"},
        **{"PatientAge": "057Y", "ViewPosition": "PA", "Modality": "DX"},
        **{"BodyPartExamined": "CHEST", "PhotometricInterpretation": "MONOCHROME2"},
        **{"Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1},
        **{"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0},
        **{"PixelData": pixels.tobytes(), "SOPInstanceUID": generate_uid(), **tags},
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def first_row(path):
    return np.asarray(load_radiograph(path, 64))[0].astype(int)


def test_without_a_window_the_own_range_is_used(tmp_path):
    write(tmp_path / "a.dcm")
    assert np.abs(first_row(tmp_path / "a.dcm") - np.round(np.arange(64) * 255 / 63)).max() <= 1


def test_monochrome1_is_inverted(tmp_path):
    write(tmp_path / "a.dcm")
    write(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1")
    assert np.abs(first_row(tmp_path / "a.dcm") + first_row(tmp_path / "b.dcm") - 255).max() <= 1


def test_the_window_speaks_of_rescaled_values(tmp_path):
    # value = stored - 1024; window 0 +- 500: stored 524 and less is black, 1524 and more is white
    tags = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
    write(tmp_path / "a.dcm", WindowCenter="0", WindowWidth="1000", **tags)
    row = first_row(tmp_path / "a.dcm")
    stored = RAMP[0].astype(int)
    assert (row[stored <= 524] == 0).all()
    assert (row[stored >= 1524] == 255).all()
    between = (stored > 524) & (stored < 1524)
    expected = ((stored[between] - 1024 + 0.5) / 999 + 0.5) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(row[between] - expected).max() <= 1


def test_a_voi_table_comes_before_a_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = np.minimum(np.arange(4096) * 32, 65535).astype(np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    write(tmp_path / "a.dcm", VOILUTSequence=[table], WindowCenter="9", WindowWidth="3")
    expected = np.minimum(RAMP[0].astype(int) * 32, 65535) * 255 / 65535
    assert np.abs(first_row(tmp_path / "a.dcm") - expected).max() <= 1


def test_a_set_says_nothing_of_the_patient_but_view_sex_and_age(tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 4096, (40, 40), dtype=np.uint16)
        write(source / "Doe" / f"DoeJane{number}", pixels, PatientID=f"JD-{number // 2}")
    colour = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    write(source / "DoeColour.dcm", np.zeros((8, 8, 3), np.uint16), **colour)
    write(source / "DoeFrames.dcm", np.zeros((2, 64, 64), np.uint16), NumberOfFrames=2, Rows=64)
    write(source / "DoeBurned.dcm", RAMP + 1, BurnedInAnnotation="YES")
    write(source / "DoeReport.dcm", PixelData=None, Rows=None, Columns=None, Modality="SR")
    write(source / "DoeCut.dcm", RAMP + 2)
    cut = (source / "DoeCut.dcm").read_bytes()
    (source / "DoeCut.dcm").write_bytes(cut[:-2000])
    (source / "notes.txt").write_text("Jane Doe")
    main(["--source", str(source), "--out", str(out), "--size", "40", "--test", "0.5"])

    info = read_json(out / "set.json")
    reasons = " | ".join(entry["reason"] for entry in info["rejected"])
    for reason in ("RGB is not grey", "several frames", "Burned", "no picture", "decoded"):
        assert reason in reasons
    assert len(info["rejected"]) == 5
    train, test = open_set(out), open_set(out, "test")
    assert (len(train), len(test)) == (2, 2)
    assert {r["patient_id"] for r in train.rows}.isdisjoint({r["patient_id"] for r in test.rows})
    row = train.rows[0]
    assert row["text"] == "chest X-ray, PA view, 57-year-old female"
    assert set(row) == {"file_name", "text", "view", "sex", "age", "patient_id"}
    assert Image.open(train.paths[0]).mode == "L"
    info["settings"].pop("source")
    for path in out.rglob("*"):
        content = repr(info).encode() if path.name == "set.json" else b""
        content = content or (path.read_bytes() if path.is_file() else b"")
        assert b"Doe" not in content + path.name.encode()
        assert b"JD-" not in content
    assert "DoeBurned.dcm: BurnedInAnnotation" in capsys.readouterr().err  # here, not in the set


def test_files_that_are_no_dicom(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_text("no")
    with pytest.raises(SystemExit):
        main(["--source", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert "holds no DICOM file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
