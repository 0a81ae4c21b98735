from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from compare.extractors import choose_extractor, inception_file
from compare.features import PixelPath, extract
from compare.fid import fid
from compare.inception import CPU_BATCH, SIDE, resized
from compare.inception_score import inception_score
from compare.kid import kid_subsets
from compare.metrics import METRICS
from core.errors import UserError
from core.sets import open_set

from .conftest import draw, write_folder

COUNT = CPU_BATCH + 1


class Unloaded(FeatureExtractorInceptionV3):
    """The network with the weights it was initialised with."""

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        return None


@pytest.fixture
def random_weights(tmp_path: Path) -> Path:
    """Seeded random weights of Inception, in the layout of torch-fidelity's file."""
    torch.manual_seed(0)
    empty, file = tmp_path / "empty.pth", tmp_path / "inception.pth"
    torch.save({}, empty)
    network = Unloaded("x", ["2048"], feature_extractor_weights_path=str(empty))
    torch.save(network.state_dict(), file)
    return file


def test_inception_is_loaded_and_given_what_torch_fidelity_gives_it(
    tmp_path: Path, random_weights: Path
) -> None:
    folder = write_folder(tmp_path / "images", draw(COUNT, 0))
    extractor = choose_extractor("auto", random_weights)
    found = extract(open_set(folder), extractor, PixelPath(16, "L"))
    network = FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(random_weights)
    )
    grey = torch.from_numpy(np.stack([np.asarray(picture) for picture in draw(COUNT, 0)]))
    features, logits = network(grey[:, None].repeat(1, 3, 1, 1))
    assert np.allclose(found.features, features, atol=1e-5)
    assert found.logits is not None
    assert np.allclose(found.logits, logits, atol=1e-5)
    # no other weights' distance is called FID
    assert not extractor.official
    assert METRICS["frechet"].heading(extractor).startswith("Fréchet distance (inception-v3 with")


@pytest.mark.parametrize("side", [1, 16, 100, 299, 512])
def test_resized_is_tensorflows(side: int) -> None:
    images = torch.from_numpy(np.random.default_rng(side).integers(0, 256, (2, 3, side, side + 9)))
    wanted = interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(SIDE, SIDE), align_corners=False
    )
    assert torch.allclose(resized(images.float()), wanted, atol=1e-3)  # grey levels


@pytest.mark.slow  # torch-fidelity's way through the network, and its worker processes
def test_same_numbers_as_torch_fidelity_from_files_to_scores(
    tmp_path: Path, random_weights: Path
) -> None:
    real = write_folder(tmp_path / "real", draw(12, 0))
    fake = write_folder(tmp_path / "fake", draw(14, 1, contrast=0.6))
    extractor = choose_extractor("auto", random_weights)
    a, b = (extract(open_set(f), extractor, PixelPath(16, "L")) for f in (real, fake))
    assert a.features.shape == (12, 2048)
    assert b.logits is not None
    theirs = calculate_metrics(
        input1=str(fake),
        input2=str(real),
        cuda=False,
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=10,
        kid_subsets=5,
        feature_extractor_weights_path=str(random_weights),
        samples_shuffle=True,
        cache=False,
        verbose=False,
    )
    assert fid(a.features, b.features) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-4, abs=1e-6
    )
    mean, _ = kid_subsets(a.features, b.features, subsets=5, size=10)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4, abs=1e-7)
    mean, _ = inception_score(b.logits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-4)


def test_inception_where_it_is_at_hand_and_else_the_small_encoder(encoder_folder: Path) -> None:
    extractor = choose_extractor("auto", None, encoder_folder)
    assert extractor.name == "encoder-mini"
    assert METRICS["frechet"].heading(extractor) == "Fréchet distance (encoder-mini)"
    assert METRICS["kid"].heading(extractor) == "Kernel distance (encoder-mini)"
    with pytest.raises(UserError, match=r"weights-inception-2015.*--extractor encoder-mini"):
        choose_extractor("inception", None, encoder_folder)


def test_weights_that_run_code_are_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    file = inception_file()
    file.parent.mkdir(parents=True)
    torch.save({"x": Bad()}, file)
    with pytest.raises(UserError, match="does not hold weights"):
        choose_extractor("auto")
    assert not (tmp_path / "ran").exists()


def test_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_encoder"):
        choose_extractor("encoder-mini", None, tmp_path / "nothing")
