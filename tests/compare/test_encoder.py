from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compare.attributes import attributes_of, labels_of
from compare.encoder import EncoderConfig, MiniEncoder, load_encoder, read_attributes, save_encoder
from compare.encoder_settings import TrainEncoderSettings
from compare.faults import FAULTS, apply_faults
from compare.train_encoder import augment, main, masked_loss
from core.errors import UserError
from core.files import read_json


def test_shapes_size_and_what_is_read() -> None:
    encoder = MiniEncoder(EncoderConfig(("animal=bat", "view=PA", "sex=F")))
    features, logits = encoder.eval()(torch.rand(2, 3, 64, 64))
    assert features.shape == (2, 128)
    assert logits.shape == (2, 3)
    assert features.abs().max() <= 3
    assert 0.5e6 < sum(p.numel() for p in encoder.parameters()) < 1e6
    read = read_attributes(encoder, torch.rand(4, 3, 64, 64))
    assert list(read) == ["animal=bat", "view=PA", "sex=F"]
    assert all(0 <= p <= 1 for values in read.values() for p in values)


def test_saved_and_loaded(tmp_path: Path) -> None:
    encoder = MiniEncoder(EncoderConfig(("a=b",), 3, 16, 4))
    encoder.train()(torch.rand(8, 3, 16, 16))  # moves batch normalisation's averages
    save_encoder(encoder, tmp_path / "e")
    images = torch.rand(3, 3, 16, 16)
    for mine, theirs in zip(
        encoder.eval()(images), load_encoder(tmp_path / "e")(images), strict=True
    ):
        assert torch.equal(mine, theirs)
    (tmp_path / "e" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="not an encoder"):
        load_encoder(tmp_path / "e")


def test_standardised_features_and_unchanged_logits() -> None:
    torch.manual_seed(0)
    encoder = MiniEncoder(EncoderConfig(("a=b", "c=d"), 3, 16, 4)).eval()
    images = torch.rand(40, 3, 16, 16)
    before = encoder(images)[1]
    encoder.standardise(encoder.pool(images))
    assert torch.allclose(encoder(images)[1], before, atol=1e-4)
    pooled = encoder.pool(images)
    assert torch.allclose(pooled.mean(0), torch.zeros(16), atol=1e-4)
    assert pooled.std(0).max() < 1.001


def test_attributes_of_typed_columns() -> None:
    rows = [
        {"file_name": "a", "text": "x", "findings": ["Mass"], "view": "PA", "age": 5, "ok": True},
        {"file_name": "b", "text": "y", "findings": [], "view": "AP", "age": 6, "ok": False},
        {"file_name": "c", "text": "z", "findings": ["Mass", "Nodule"], "view": None, "ok": None},
    ]
    names = attributes_of(rows, least=1)
    assert names == (
        "findings=Mass",
        "findings=Nodule",
        "view=AP",
        "view=PA",
        "ok=False",
        "ok=True",
    )
    labels = labels_of(rows, names)
    assert labels[:, 0].tolist() == [1, 0, 1]
    assert labels[:2, 2].tolist() == [0, 1]
    assert np.isnan(labels[2, 2:]).all()
    assert attributes_of(rows, ["view"], least=1) == ("view=AP", "view=PA")


def test_unknown_labels_cost_nothing() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.0, 3.0]], requires_grad=True)
    target = torch.tensor([[1.0, float("nan")], [0.0, float("nan")]])
    loss = masked_loss(logits, target, torch.ones(2))
    expected = (np.log1p(np.exp(-2.0)) + np.log(2)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] == 0).all()


def test_faults() -> None:
    images = torch.rand((3, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    noise = torch.randn(images.shape)
    assert torch.allclose(apply_faults(images, torch.zeros(3, 3), noise, 0.1), images)
    faulty = apply_faults(images, torch.eye(3), noise, 0.1)
    assert faulty[0].std() < images[0].std()
    assert (faulty[1] - images[1]).std() == pytest.approx(0.1, rel=0.3)
    assert torch.equal(faulty[2, :, ::2, ::2], faulty[2, :, 1::2, 1::2])


def test_augmentation_is_a_function_of_seed_and_step() -> None:
    settings = TrainEncoderSettings(data=("x",))
    images = torch.rand(4, 3, 16, 16)
    (a, amounts), (b, _), (c, _) = (augment(images, settings, step) for step in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert amounts.shape == (4, 3)
    assert a.min() >= 0
    assert a.max() <= 1


def test_it_learns_and_writes_a_card(make_set: Callable[..., Path], tmp_path: Path) -> None:
    data, out = make_set("set", train=60, validation=40), tmp_path / "encoder"
    words = f"--data ['{data}'] --out {out} --columns [findings] --steps 3 --batch 8".split()
    words += ["--width", "4", "--size", "16"]
    main(words)
    metrics = read_json(out / "metrics.json")
    assert set(metrics["attributes"]) == {"findings=Mass", *FAULTS}
    assert all(0 <= row["auroc"] <= 1 for row in metrics["attributes"].values())
    card = (out / "README.md").read_text()
    assert metrics["sha256"] in card
    assert "| findings=Mass |" in card
    first = load_encoder(out).state_dict()
    main(words)  # the same seed, the same weights
    assert all(torch.equal(v, first[k]) for k, v in load_encoder(out).state_dict().items())
