"""Faults of a set are found before they are learned."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from core import demo, doctor
from core.checkup import check_set, warnings_of
from core.config import parse
from core.doctor import main, weights
from core.errors import UserError
from core.files import write_jsonl
from core.kinds import KINDS, kinds_of, odd_ones
from core.sets import open_set
from finetune.settings import DreamBoothSettings
from finetune.subjects import instance_subject
from prepare.chest import draw_chest, sample_chest
from tests.finetune.tiny import tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A set with one of each fault."""
    folder, random = tmp_path / "set", np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        rows = []
        for number in range(4):
            image = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image = image.resize((64, 64), Image.Resampling.BICUBIC)
            image.save(folder / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "text": f"{split} {number}",
                         "patient_id": f"{split}{number}"})  # fmt: skip
        if split == "train":
            Image.open(folder / "train/0.png").resize((48, 48)).save(folder / "train/1.png")
            Image.open(folder / "train/2.png").convert("L").save(folder / "train/2.png")
            (folder / "train/3.png").write_bytes(b"torn")
            rows[2]["text"] = "very " * 90
        if split == "test":
            Image.open(folder / "train/0.png").save(folder / "test/0.png")
            rows[1]["patient_id"] = "train1"
            rows[2]["text"] = ""
        write_jsonl(folder / split / "metadata.jsonl", rows)
    (folder / "set.json").write_text(json.dumps({"mode": "RGB"}))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base whose tokenizer knows letters only."""
    tiny_tokenizer().save_pretrained(tmp_path / "letters/tokenizer")
    return tmp_path / "letters"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A tiny CLIP with random weights and the embedded base's vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/sd2-mini/tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "projection_dim": 8}
    text = small | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    vision = small | {"image_size": 16, "patch_size": 8, "initializer_factor": 50.0}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size=16, crop_size=16).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_kinds_are_what_clip_says(tmp_path: Path, clip: Path) -> None:
    """Against the network asked directly, with pictures that it takes for different things."""
    random, paths = np.random.default_rng(1), []
    for number in range(12):
        shade = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(shade).resize((16, 16)).save(paths[-1])
    network, tokenizer = CLIPModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    words = tokenizer(list(KINDS.values()), padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(clip)([Image.open(p) for p in paths])
    logits = network(**words, pixel_values=torch.stack(list(pixels["pixel_values"])))
    wanted = [[*KINDS][place] for place in logits.logits_per_image.argmax(1)]
    assert len(set(wanted)) > 1
    assert kinds_of(paths, clip) == wanted
    with pytest.raises(UserError, match="cannot be loaded as CLIP"):
        kinds_of(paths, tmp_path)


def test_a_skeleton_among_living_animals_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        random = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(random).resize((32, 32)).save(tmp_path / f"{number}.png")
    said = ["a living animal", "a living animal", "a skeleton", "something else"]
    monkeypatch.setattr("core.checkup.kinds_of", lambda paths, clip: said)
    bad = [what + remedy for fine, what, remedy in check_set(tmp_path, tmp_path) if not fine]
    assert any("1 of 4 a skeleton" in line and "look at 2.png" in line for line in bad)
    assert odd_ones(["a line drawing"] * 3) == ("a line drawing", [])
    assert any("look at 2.png" in line for line in warnings_of(tmp_path, False, tmp_path))
    assert not any("skeleton" in line for line in warnings_of(tmp_path, False))


def test_every_fault_is_found(faulty: Path, capsys: pytest.CaptureFixture) -> None:
    rows = check_set(faulty)
    bad = [f"{what} ({remedy})" for fine, what, remedy in rows if not fine]
    wanted = (
        "grey and colour are mixed",
        "1 files cannot be read (3.png)",
        "longer than 75 tokens",
        "0.png = 1.png",
        "1 images have none",
        "1 patients in two splits",
        "photographs of train also in test",
    )
    for words in wanted:
        assert any(words in line for line in bad), words
    assert len(bad) == len(wanted)
    assert any("validation: 4 images" in what for fine, what, _ in rows if fine)
    main([str(faulty)])
    assert f"{len(wanted)} to mend." in capsys.readouterr().out


@pytest.mark.parametrize("both", [("train", "validation"), ("validation", "test")])
def test_a_photograph_in_any_two_splits_is_found(faulty: Path, both: tuple[str, str]) -> None:
    for split in ("train", "validation", "test"):
        for number in range(4):
            noise = np.random.default_rng([len(split), number]).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(noise).resize((64, 64)).save(faulty / split / f"{number}.png")
    assert not any("photographs" in what for fine, what, _ in check_set(faulty) if not fine)
    Image.open(faulty / both[0] / "2.png").save(faulty / both[1] / "3.png")
    bad = {what: remedy for fine, what, remedy in check_set(faulty) if not fine}
    said = bad[f"1 photographs of {both[0]} also in {both[1]}"]
    assert said.startswith("2.png = 3.png: scores on")


def test_blank_and_broken_pictures_are_no_duplicates(tmp_path: Path) -> None:
    for name, shade in (("black", 0), ("white", 255)):
        Image.new("L", (32, 32), shade).save(tmp_path / f"{name}.png")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"torn")
    bad = [what for fine, what, _ in check_set(tmp_path) if not fine]
    assert bad == ["images: 2 files cannot be read (a.png, b.png)"]


def test_captions_are_counted_in_a_bases_tokens(tmp_path: Path, base: Path) -> None:
    """Few words may be many tokens; of which base, can be said."""
    long = "Ornithocheiromorpha " * 40  # 40 words
    for number, text in enumerate(("a bird", long)):
        Image.new("RGB", (32, 32), (0, 40 * number, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(text)
    said = "1 are longer than 75 tokens of models/sd2-mini"
    assert any(said in remedy for fine, _, remedy in check_set(tmp_path) if not fine)
    (tmp_path / "1.txt").write_text("a bird in the forest, flying, seen from the side " * 2)
    rows = [what for fine, what, _ in check_set(tmp_path) if fine]
    assert any("none longer than 75 tokens of models/sd2-mini" in what for what in rows)
    letters = [remedy for fine, _, remedy in check_set(tmp_path, base=str(base)) if not fine]
    assert any(f"longer than 75 tokens of {base}" in remedy for remedy in letters)
    with pytest.raises(UserError, match="--base nowhere/none has no tokenizer"):
        check_set(tmp_path, base="nowhere/none")


def test_before_a_run_what_is_not_fine_is_said(
    faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = warnings_of(faulty, captions=True)
    assert len(said) == 6  # all but lengths, which the trainer counts in tokens
    assert all(line.startswith(f"{faulty}, ") for line in said)
    assert any("1 images have none" in line for line in said)
    assert not any("have none" in line for line in warnings_of(faulty, captions=False))
    monkeypatch.setattr("core.checkup.MOST", 3)
    rows = [what for _, what, _ in check_set(faulty)]
    assert "train: only the first 3 images were looked at" in rows


def test_a_split_whose_image_is_gone_is_told_not_passed_over(faulty: Path) -> None:
    (faulty / "validation/2.png").unlink()
    (faulty / "test/metadata.jsonl").write_text("")  # an empty split is none
    bad = {what: remedy for fine, what, remedy in check_set(faulty) if not fine}
    gone = f"validation: {faulty / 'validation/2.png'} is not there"
    assert bad[gone].startswith("restore it, or leave it out by a line")
    assert any(gone in line for line in warnings_of(faulty, captions=True))
    assert not any(what.startswith("test:") for what in bad)


def test_a_plain_folder_is_looked_at_too(tmp_path: Path) -> None:
    Image.effect_noise((96, 64), 80).save(tmp_path / "a.png")
    rows = check_set(tmp_path)
    assert all(fine for fine, _, _ in rows)
    assert rows[0][1] == "images: 1 images, 64 to 64 px at the shorter side, grey"


def test_captions_that_cannot_be_read_are_one_fault_among_others(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (32, 32), (9 * number, 99, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_bytes("Café".encode("latin-1" if number else "utf-8"))
    (tmp_path / "3.png").write_bytes(b"torn")
    (tmp_path / "3.txt").write_text("torn")
    bad = {what: remedy for fine, what, remedy in check_set(tmp_path) if not fine}
    assert bad.pop("images: 2 captions are not UTF-8 text (1.txt, 2.txt)") == "save them as such"
    assert bad.pop("images: 1 files cannot be read (3.png)") == "remove them"
    assert not any("captions" in what for what in bad)
    with pytest.raises(UserError, match=r"1\.txt is not UTF-8 text"):  # a run
        open_set(tmp_path)


def test_pictures_that_are_not_taken_are_named(tmp_path: Path) -> None:
    """Of a plain folder: those below it, and those in a format that is not read."""
    noise = Image.effect_noise((64, 64), 80)
    (tmp_path / "more/.cache").mkdir(parents=True)
    for name in ("more/b.png", "more/c.JPG", "more/.cache/d.png"):
        noise.save(tmp_path / name)
    for name in ("e.HEIC", "more/f.heic", "g.avif", "notes.txt"):
        (tmp_path / name).touch()
    said = "2 in folders below, 2 .heic, 1 .avif"
    with pytest.raises(UserError, match=f"holds no image but {said}; .*osteon prepare folder"):
        check_set(tmp_path)
    noise.save(tmp_path / "a.png")
    (line,) = warnings_of(tmp_path, captions=False)
    assert f"pictures not looked at: {said} (osteon prepare folder" in line


def test_the_next_command_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Whole, with one prompt for all where the images have no captions."""
    noise = Image.effect_noise((64, 64), 80)
    (tmp_path / "my birds").mkdir()
    noise.save(tmp_path / "my birds/a.png")
    (tmp_path / "set/train").mkdir(parents=True)
    noise.save(tmp_path / "set/train/a.png")
    write_jsonl(tmp_path / "set/train/metadata.jsonl", [{"file_name": "a.png", "text": "a bird"}])
    (tmp_path / "set/set.json").write_text("{}")
    for name, said in (("my birds", "a photo of ..."), ("set", "a bird")):
        main([str(tmp_path / name)])
        _, _, after = capsys.readouterr().out.partition("All is well. Next: ")
        osteon, train, family, *words = shlex.split(after)
        assert (osteon, train, family) == ("osteon", "train", "dreambooth")
        settings = parse(DreamBoothSettings, words, "").settings
        assert settings.run_dir == f"runs/{name}"
        assert instance_subject(settings).captions == [said]


def test_x_rays_of_two_people_are_not_one_photograph(tmp_path: Path) -> None:
    """Much alike as they are; a copy that was made smaller and compressed again is."""
    for seed in range(80):
        Image.fromarray(draw_chest(sample_chest(seed), 64)).save(tmp_path / f"{seed:02}.png")
    assert not warnings_of(tmp_path, captions=False)
    copy = Image.open(tmp_path / "07.png").resize((48, 48))
    copy.save(tmp_path / "80.jpg", quality=60)
    (told,) = warnings_of(tmp_path, captions=False)
    assert "1 near-duplicates: 07.png = 80.jpg" in told


def test_missing_weights_of_our_own_come_back_from_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert all(fine for fine, _, _ in weights())
    for module in (demo, doctor):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    told = [remedy for fine, _, remedy in weights() if not fine]
    assert told == [f"missing; git checkout models/{n}" for n in ("sd2-mini", "encoder-mini")]
    with pytest.raises(SystemExit) as stop:
        demo.main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().endswith("git checkout models/sd2-mini")


def test_images_without_a_patient_are_not_said_to_be_apart(faulty: Path) -> None:
    """ "0 patients in two splits" was said of a set that names none."""
    some = "0 patients in two splits, as far as is known: 8 of 12 images have no patient_id"
    for nameless, wanted in (
        ([], ["1 patients in two splits"]),
        (["validation", "test"], [some]),
        (["train"], []),
    ):
        for split in nameless:
            file = faulty / split / "metadata.jsonl"
            file.write_text(file.read_text().replace("patient_id", "other"))
        assert [what for _, what, _ in check_set(faulty) if "patient" in what] == wanted
