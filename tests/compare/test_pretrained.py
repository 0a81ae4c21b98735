"""CLIP, DINOv2 and pytorch-ignite's default: seeded random weights through the real loading."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.metrics import FID, InceptionScore

from compare.extractors import choose_extractor, inception_file
from compare.features import PixelPath, extract
from compare.fid import fid
from compare.metrics import METRICS, metrics_for
from compare.pretrained import LEGACY_FILE
from core.errors import UserError
from core.files import write_jsonl
from core.sets import open_set

from .conftest import draw, write_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A tiny CLIP, with the embedded base's vocabulary."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/sd2-mini/tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "projection_dim": 8}
    text = small | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    vision = small | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_clip_reads_images_and_prompts(tmp_path: Path, clip_folder: Path) -> None:
    folder = write_folder(tmp_path / "fake", draw(6, 0))
    rows = [{"file": f"{i:06d}.png", "seed": i, "prompt": f"chest {i}"} for i in range(6)]
    write_jsonl(folder / "samples.jsonl", rows)
    extractor = choose_extractor(str(clip_folder))
    found = extract(open_set(folder), extractor, PixelPath(16, "L"))
    assert found.features.shape == (6, 8)
    assert found.texts is not None
    assert found.texts.shape == (6, 8)
    rows = {m.key: m for m in metrics_for(extractor, few=True, n_real=6, n_fake=6)}
    assert {"cmmd", "clip_t", "likeness"} <= rows.keys()
    a, b = found.features, found.texts
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert rows["clip_t"].value(found, found) == pytest.approx(cosine.mean(), rel=1e-5)
    assert rows["cmmd"].value(found, found) == pytest.approx(0, abs=1e-9)


def test_dinov2(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Dinov2Config(image_size=28, patch_size=14, **small)
    torch.manual_seed(0)
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    extractor = choose_extractor(str(tmp_path / "dino"))
    assert extractor.name == "DINOv2 dino"
    found = extract(
        open_set(write_folder(tmp_path / "x", draw(3, 0))), extractor, PixelPath(16, "L")
    )
    assert found.features.shape == (3, 12)
    assert METRICS["frechet"].heading(extractor) == "Fréchet distance (DINOv2 dino)"


def test_torchxrayvision(tmp_path: Path) -> None:
    """Keys and arithmetic of torchxrayvision 1.5's DenseNet, seeded."""
    from safetensors.torch import save_file
    from torchvision.models import densenet121

    torch.manual_seed(0)
    network = densenet121(num_classes=18).eval()
    network.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    file = tmp_path / "xrv.safetensors"
    save_file(network.state_dict() | {"op_threshs": torch.zeros(18)}, file)
    extractor = choose_extractor(str(file))
    assert (extractor.name, extractor.dimension) == ("torchxrayvision xrv", 1024)
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        scaled = (pixels.float().mean(1, keepdim=True) / 255 * 2 - 1) * 1024
        wanted = torch.nn.functional.relu(network.features(scaled)).mean((2, 3))
        torch.testing.assert_close(extractor.forward(pixels)["features"], wanted)
    save_file({"features.conv0.weight": torch.zeros(1)}, file)
    for place in (file, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match="does not hold torchxrayvision's"):
            choose_extractor(str(place))


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no extractor"):
        choose_extractor("nothing")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="type bert"):
        choose_extractor(str(tmp_path / "bert"))
    with pytest.raises(UserError, match=LEGACY_FILE):
        choose_extractor("legacy-ignite")


@pytest.mark.slow  # torchvision's Inception at 299 pixels
def test_legacy_equals_ignite(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    file = inception_file().with_name(LEGACY_FILE)
    file.parent.mkdir(parents=True)
    network = inception_v3(weights=None, init_weights=False, transform_input=True)
    torch.save(network.state_dict(), file)
    pictures = [draw(9, 0), draw(9, 1, contrast=0.5)]
    folders = [write_folder(tmp_path / str(i), drawn) for i, drawn in enumerate(pictures)]
    extractor = choose_extractor("legacy-ignite")
    real, fake = (extract(open_set(f), extractor, PixelPath(16, "L")) for f in folders)
    keys = [m.key for m in metrics_for(extractor, False, 9, 9)]
    assert keys == ["legacy_fid", "legacy_is"]

    network = network.eval()
    theirs = []
    for folder in folders:
        grey = np.stack(
            [np.asarray(p) for p in draw(9, int(folder.name), 1 - int(folder.name) / 2)]
        )
        pixels = torch.from_numpy(grey)[:, None].repeat(1, 3, 1, 1).float() / 255
        pixels = torch.nn.functional.interpolate(pixels, (299, 299), mode="bilinear")
        with torch.no_grad():
            theirs.append(network(pixels).softmax(1))
    ignite_fid = FID(num_features=1000, feature_extractor=torch.nn.Identity())
    ignite_fid.update((theirs[0], theirs[1]))
    score = InceptionScore(num_features=1000, feature_extractor=torch.nn.Identity())
    score.update(theirs[1])
    assert METRICS["legacy_fid"].value(real, fake) == pytest.approx(ignite_fid.compute(), abs=1e-5)
    assert METRICS["legacy_is"].value(real, fake) == pytest.approx(score.compute(), rel=1e-5)


def test_legacy_distance_of_probabilities_lies_between_0_and_2() -> None:
    one, other = np.eye(1000)[[0] * 5], np.eye(1000)[[1] * 5]
    assert fid(one, other) == pytest.approx(2)
