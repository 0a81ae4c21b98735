import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPTokenizer

from core.config import read_yaml
from core.files import read_json
from core.images import png_text
from core.sets import open_set
from core.tables import read_table
from core.tokens import tokens
from prepare.facts import read_genus, with_facts
from prepare.folder import main, prefixed, unique_keys
from tests.finetune.tiny import tiny_tokenizer

RED = (200, 40, 30)
FACTS = Path(__file__).resolve().parents[2] / "prompts/facts.yaml"


def paint(path, size=(40, 40), seed=0, mode="RGB"):
    """A random picture with detail of all sizes; no two seeds are near-duplicates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size)
        for cells in (4, 8, 16, 32)
    ]
    picture = Image.fromarray(np.mean([np.asarray(layer) for layer in layers], 0).astype(np.uint8))
    picture.convert(mode).save(path)


def bomb(path):
    """A tiny PNG that promises 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def prepare(source, out, *words):
    main(["--source", str(source), "--out", str(out), "--size", "32", "--workers", "1", *words])
    return read_json(out / "set.json")


def refused(info):
    return {entry["file"]: entry["reason"] for entry in info["rejected"]}


def test_broken_files_are_listed_with_the_reason_and_left_out(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    paint(source / "good.png")
    paint(source / "upper.JPG", seed=1)
    paint(source / "cut.png", size=(300, 300), seed=2)
    whole = (source / "cut.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    (source / "empty.jpg").touch()
    (source / "letter.png").write_text("I am a letter")
    bomb(source / "bomb.png")
    (source / "photo.heic").write_bytes(b"\0" * 64)
    (source / "folder.png").mkdir()
    (source / ".hidden.png").write_text("")
    (source / "Thumbs.db").write_text("")
    os.symlink(source / "nowhere.png", source / "link.png")
    before = sorted(source.rglob("*"))

    info = prepare(source, out)
    reasons = refused(info)
    broken = {"cut.png", "empty.jpg", "letter.png", "bomb.png", "link.png"}
    assert set(reasons) == broken | {".heic, 1 of them"}
    assert "no such file" in reasons["link.png"]
    assert "empty file" in reasons["empty.jpg"]
    assert "truncated" in reasons["cut.png"]
    assert "no image by its content" in reasons["letter.png"]
    assert "pixels" in reasons["bomb.png"]
    assert not any(str(tmp_path) in reason for reason in reasons.values())
    assert [path.name for path in open_set(out).paths] == ["good.png", "upper.png"]
    assert sorted(source.rglob("*")) == before


def test_nothing_left_is_one_clear_error_and_no_folder(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    with pytest.raises(SystemExit) as stop:
        prepare(tmp_path / "in", tmp_path / "out")
    assert stop.value.code == 2
    assert "can be used; the first, a.png: not a readable image (empty file)" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", ["in", "in/deep", "."])
def test_source_and_result_must_not_overlap(inside, tmp_path, capsys):
    paint(tmp_path / "in" / "a.png")
    with pytest.raises(SystemExit):
        prepare(tmp_path / "in", tmp_path / inside)
    assert "overlap" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.png"]


def test_captions_come_from_the_table_then_beside_then_for_all(tmp_path, capsys):
    source = tmp_path / "in"
    for seed, name in enumerate("abcd"):
        paint(source / f"{name}.png", seed=seed)
    (source / "a.txt").write_text("not this one")
    (source / "b.txt").write_text(" a dog\n on a sofa \n")
    (source / "c.txt").write_bytes(b"\xff\xfe\xff")
    (source / "metadata.csv").write_text(
        'file_name,text,age,weight,code,born\na.png,"a cat, asleep",3,1.5,007,\n'
        "b.png,,4,2,12,\nlost.png,gone,,,,\n"
    )
    info = prepare(source, tmp_path / "out", "--caption", "a pet")
    rows = {row["file_name"]: row for row in open_set(tmp_path / "out").rows}
    assert rows["a.png"] == {
        **{"file_name": "a.png", "text": "a cat, asleep", "age": 3, "weight": 1.5},
        **{"code": "007", "born": None},
    }
    assert (rows["b.png"]["text"], rows["b.png"]["weight"]) == ("a dog on a sofa", 2.0)
    assert (rows["d.png"]["text"], rows["d.png"]["age"]) == ("a pet", None)
    assert refused(info) == {
        "lost.png": "in metadata.csv, but not there",
        "c.png": "c.txt is not UTF-8 text",
    }
    prepare(source, tmp_path / "bare", "--near", "-1")
    assert "--caption" not in capsys.readouterr().out


def test_a_prefix_stands_before_every_caption_once(tmp_path, capsys):
    source = tmp_path / "in"
    for seed, name in enumerate("abcd"):
        paint(source / f"{name}.png", seed=seed)
    (source / "a.txt").write_text("on a rock")
    (source / "b.txt").write_text("sinomacrops bondei at dusk")
    (source / "c.txt").write_text("Sinomacrops bondeii")
    words = ["--prefix", "Sinomacrops bondei, "]
    info = prepare(source, tmp_path / "out", *words)
    assert open_set(tmp_path / "out").captions == [
        *("Sinomacrops bondei, on a rock", "sinomacrops bondei at dusk"),
        *("Sinomacrops bondei, Sinomacrops bondeii", ""),
    ]
    assert info["settings"]["prefix"] == "Sinomacrops bondei, "
    prepare(source, tmp_path / "all", *words, "--caption", "in flight")
    assert open_set(tmp_path / "all").captions[3] == "Sinomacrops bondei, in flight"

    facts = ["--facts", str(FACTS), "--genus", "Sinomacrops"]
    for prefix, begun in (("Sinomacrops bondei, ", "Sinomacrops bondei"), ("sks", "sks Sino")):
        out = tmp_path / begun
        prepare(source, out, "--prefix", prefix, *facts)
        last = open_set(out).captions[3]
        assert last.startswith(begun)
        assert last.count("Sinomacrops bondei") == 1
        assert tokens(last) <= 75
        assert "short face" in last
    with pytest.raises(SystemExit):
        prepare(source, tmp_path / "out", "--prefix", "sks")
    assert "was prepared with prefix Sinomacrops bondei, , not sks" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare(source, tmp_path / "none", "--prefix", " , ")
    assert "--prefix needs a word" in capsys.readouterr().err


def test_a_prefix_by_hand():
    assert prefixed("dog", "sks") == prefixed("dog", "sks ") == prefixed("dog", " sks") == "sks dog"
    assert prefixed("dog", "a photo of") == "a photo of dog"
    assert prefixed("SKS: dog", "sks, ") == "SKS: dog"
    assert prefixed("sksa", "sks, ") == "sks, sksa"
    assert prefixed("", "sks") == ""
    assert prefixed("dog", None) == "dog"
    assert prefixed("a dog", "[x] ") == "[x] a dog"
    assert prefixed("[x] a dog", "[x] ") == "[x] a dog"


def test_facts_of_the_genus_join_every_caption(tmp_path, capsys):
    source = tmp_path / "in"
    for seed, name in enumerate("abc"):
        paint(source / f"{name}.png", seed=seed)
    (source / "a.txt").write_text("Tropeognathus over the sea.")
    (source / "b.txt").write_text("Tropeognathus " + "far away " * 12)
    words = ["--facts", str(FACTS), "--genus", "Tropeognathus"]
    prepare(source, tmp_path / "out", *words)
    looks = (
        "keeled crests on snout and chin, interlocking teeth, short tail, very long narrow wings"
    )
    texts = open_set(tmp_path / "out").captions
    assert texts[0] == f"Tropeognathus over the sea, {looks}"
    assert texts[1] == ("Tropeognathus " + "far away " * 12).strip()
    assert texts[2] == f"Tropeognathus, {looks}"
    said = capsys.readouterr().out
    assert f"1 captions have no room for all that {FACTS} says of Tropeognathus, counted in" in said
    assert "the tokens of models/sd2-mini (--base names another)." in said
    done = subprocess.run(
        [sys.executable, "-c", "from core.tokens import tokens; print(tokens('far ' * 80))"],
        cwd=FACTS.parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("240\n", "")  # transformers would warn of so many


def test_the_tokens_of_another_base_are_counted(tmp_path, capsys):
    """Letters, but for far and away: 13 + 24, then 27 for a comma and a look, and not 18 more."""
    words = tiny_tokenizer().get_vocab()
    merges = [("f", "a"), ("fa", "r</w>"), ("a", "w"), ("aw", "a"), ("awa", "y</w>")]
    words |= {a + b: len(words) + place for place, (a, b) in enumerate(merges)}
    own = tmp_path / "own"
    CLIPTokenizer(vocab=words, merges=merges).save_pretrained(own / "tokenizer")
    (own / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    (own / "tokenizer/vocab.json").write_text(json.dumps(words))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (own / "tokenizer/merges.txt").write_text("\n".join(lines))  # as Stable Diffusion's lie there
    caption = "Tropeognathus " + ("far away " * 12).strip()
    assert tokens(caption, str(own)) == 13 + 24
    assert tokens(f"{caption}, keeled crests on snout and chin", str(own)) == 13 + 24 + 27

    paint(tmp_path / "in" / "a.png")
    words = ["--facts", str(FACTS), "--genus", "Tropeognathus", "--base", str(own)]
    info = prepare(tmp_path / "in", tmp_path / "out", "--caption", caption, *words)
    assert open_set(tmp_path / "out").captions == [f"{caption}, keeled crests on snout and chin"]
    assert f"counted in the tokens of {own}.\n" in capsys.readouterr().out
    assert info["settings"]["base"] == str(own)


def test_every_genus_has_facts_and_captions_stay_within_75_tokens():
    """As sd2-mini's own tokenizer in transformers counts them, which has the fewest words."""
    tokenizer = CLIPTokenizer.from_pretrained(FACTS.parents[1] / "models/sd2-mini/tokenizer")
    genera = ["Sinomacrops", "Dimorphodon", "Caelestiventus", "Tropeognathus"]
    assert list(read_yaml(FACTS)) == genera
    for name in genera:
        genus = read_genus(FACTS, name)
        for caption in ("", f"{genus.name} flying in the forest"):
            said = with_facts(caption, genus)
            count = len(tokenizer(said).input_ids) - 2  # start and end
            assert tokens(said) == count <= 75
            told = [fact for fact in genus.looks if fact in said]
            assert len(told) >= 3
            left = genus.looks[len(told) :]
            assert not left or tokens(f"{said}, {left[0]}") > 75
    assert read_genus(FACTS, "Sinomacrops").name == "Sinomacrops bondei"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--facts", str(FACTS)], "--facts and --genus go together"),
        (["--genus", "Dimorphodon"], "--facts and --genus go together"),
        (["--facts", "no.yaml", "--genus", "Dimorphodon"], "no.yaml: no such file"),
        (["--base", "x"], "--base counts the tokens of --facts and --genus; give those"),
        (
            ["--facts", str(FACTS), "--genus", "Sinomacrops", "--base", "in"],
            "--base in has no tokenizer here or on the hub; give a folder",
        ),
        (
            ["--facts", str(FACTS), "--genus", "Sinomacrops", "--base", "no such base!"],
            "--base no such base! has no tokenizer here",
        ),
        (
            ["--facts", str(FACTS), "--genus", "Sinomacrops", "--base", "~nobody-here/x"],
            "--base ~nobody-here/x has no tokenizer here",
        ),
        (["--facts", str(FACTS), "--genus", "Zebra"], "no facts of Zebra; it knows Sinomacrops,"),
        (["--facts", "own.yaml", "--genus", "Zebra"], "Zebra needs `looks: [one, another]`"),
    ],
)
def test_facts_that_cannot_be_used_are_one_clear_error(
    words, complaint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "in" / "a.png")
    Path("own.yaml").write_text("Zebra: {looks: stripes}")
    with pytest.raises(SystemExit) as stop:
        prepare(tmp_path / "in", tmp_path / "out", *words)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_jsonl_table_keeps_its_types(tmp_path):
    paint(tmp_path / "in" / "x" / "a.png")
    row = {"file_name": "x/a.png", "text": "a", "tags": ["b", "c"], "ok": True}
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    prepare(tmp_path / "in", tmp_path / "out")
    assert open_set(tmp_path / "out").rows == [
        {**row, "file_name": "x-a.png", "folder": "x"},
    ]


def test_a_table_with_an_unquoted_comma_is_refused_by_row(tmp_path):
    (tmp_path / "t.csv").write_text("file_name,text\na.png,one, two\n")
    with pytest.raises(Exception, match=r"row 2 has 3 cells and the header 2; quote"):
        read_table(tmp_path / "t.csv")


def test_near_duplicates_never_cross_splits(tmp_path):
    source = tmp_path / "in"
    for seed in range(30):
        paint(source / f"{seed:02d}.png", size=(64, 64), seed=seed)
        Image.open(source / f"{seed:02d}.png").resize((50, 50)).save(
            source / f"z{seed:02d}-again.jpg", quality=70
        )
    info = prepare(source, tmp_path / "out", "--test", "0.3", "--validation", "0.2")
    where = {p.stem: p.parent.name for p in (tmp_path / "out").glob("*/*.png")}
    assert len(where) == 60
    assert all(where[f"{seed:02d}"] == where[f"z{seed:02d}-again"] for seed in range(30))
    assert info["near_duplicates"] == 30
    assert min(info["counts"].values()) > 0

    apart = prepare(
        source, tmp_path / "apart", "--test", "0.3", "--validation", "0.2", "--near", "-1"
    )
    assert apart["near_duplicates"] == 0


def test_a_column_keeps_subjects_together_and_few_images_are_all_for_training(tmp_path):
    for seed in range(12):
        paint(tmp_path / "in" / f"dog{seed // 3}" / f"{seed}.png", seed=seed)
    prepare(tmp_path / "in", tmp_path / "all")
    assert len(open_set(tmp_path / "all")) == 12
    prepare(tmp_path / "in", tmp_path / "out", "--group", "folder", "--test", "0.25")
    train, test = open_set(tmp_path / "out"), open_set(tmp_path / "out", "test")
    dogs = [{row["folder"] for row in part.rows} for part in (train, test)]
    assert not dogs[0] & dogs[1]
    assert len(dogs[0] | dogs[1]) == 4


def test_the_mode_is_grey_only_where_every_image_is(tmp_path):
    paint(tmp_path / "grey" / "a.png", mode="L")
    paint(tmp_path / "grey" / "b.jpg", mode="L", seed=1)
    deep = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "grey" / "deep.png")
    assert prepare(tmp_path / "grey", tmp_path / "l")["mode"] == "L"
    wide = open_set(tmp_path / "l").pixels(32)[2]
    assert (wide.min(), wide.max()) == (0, 255) or wide.max() - wide.min() > 245

    shutil.copytree(tmp_path / "grey", tmp_path / "mixed")
    paint(tmp_path / "mixed" / "c.png", seed=2)
    assert prepare(tmp_path / "mixed", tmp_path / "rgb")["mode"] == "RGB"
    assert prepare(tmp_path / "mixed", tmp_path / "forced", "--mode", "L")["mode"] == "L"


def test_wide_images_lose_their_sides_and_no_metadata_survives(tmp_path):
    image = Image.new("RGB", (90, 30), "black")
    image.paste(RED, (30, 0, 60, 30))
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    image.save(tmp_path / "in" / "wide.jpg", quality=95, exif=exif, comment=b"Jane Doe")
    info = prepare(tmp_path / "in", tmp_path / "out")
    file = tmp_path / "out" / "train" / "wide.png"
    assert np.asarray(Image.open(file)).reshape(-1, 3).mean(0) == pytest.approx(RED, abs=6)
    assert b"Jane" not in file.read_bytes()
    assert not png_text(file)
    assert info["enlarged"] == 1  # 30 pixels high, 32 asked


def test_a_changed_source_is_made_again_and_a_lost_one_is_dropped(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate("abc"):
        paint(source / f"{name}.png", seed=seed)
    first = prepare(source, out)
    kept = (out / "train" / "b.png").stat().st_mtime_ns
    paint(source / "a.png", seed=9)
    os.utime(source / "a.png", (2e9, 2e9))
    (source / "c.png").unlink()
    second = prepare(source, out)
    assert second["counts"]["train"] == 2
    assert second["fingerprint"] != first["fingerprint"]
    assert (out / "train" / "b.png").stat().st_mtime_ns == kept
    assert sorted(path.name for path in out.glob("train/*.png")) == ["a.png", "b.png"]


def test_names_are_unique_whatever_the_folders_and_suffixes():
    names = ["tom.jpg", "tom.png", "Tom.gif", "cats/tom.png", "cats-tom.webp", "a b.png"]
    assert unique_keys([Path(name) for name in names]) == [
        *("tom-jpg", "tom-png", "Tom-gif", "cats-tom-png", "cats-tom-webp", "a_b")
    ]
    assert unique_keys([Path("x.png"), Path("x.PNG")]) == ["x-png", "x-png-2"]


def test_the_next_command_has_a_prompt_where_no_image_has_a_caption(tmp_path, capsys):
    for seed in range(6):
        paint(tmp_path / f"in/{seed}.png", seed=seed)
    for words, given in (((), True), (("--caption", "a wing"), False)):
        prepare(tmp_path / "in", tmp_path / f"out{given}", *words)
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("Next: osteon train dreambooth --data ")
        assert last.endswith("--prompt 'a photo of ...'") is given
