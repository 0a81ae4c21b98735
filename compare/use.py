"""Are the images of use? Train on generated ones, test on real ones (Ravuri and Vinyals, 2019).

Each set of generated images, with the findings its prompts ask for, trains a small classifier,
alone and together with the real training images. The control that matters beside them: the real
images repeated to the number of both together. A gain that duplicates give too is more training,
not more knowledge.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.agreement import mean_auroc, requested
from compare.attributes import attributes_of, labels_of
from compare.bootstrap import interval, resample_counts
from compare.encoder import EncoderConfig, MiniEncoder
from compare.encoder_settings import TrainEncoderSettings
from compare.features import PixelPath, pixel_batches
from compare.sources import Fake, Real
from compare.train_encoder import augment, masked_loss
from core.seeds import batch_at, seed_everything
from core.sets import ImageSet

SIDE, WIDTH, BATCH = 64, 16, 64
LR = 2e-3
COLUMN = "findings"


def use(real: Real, fakes: Sequence[Fake], epochs: int, device: str, seed: int) -> Any:
    """AUROC, sensitivity and specificity on the held-out real images of classifiers trained on real
    images, generated ones, both, and the control; intervals by patient. None where the real images
    carry no findings or no set was asked for any.
    """
    attributes = attributes_of(real.train.rows, [COLUMN], least=5)
    asked = {fake.label: requested(fake.prompts, attributes) for fake in fakes}
    asked = {label: found for label, found in asked.items() if not np.isnan(found).all()}
    if not attributes or not asked or real.same:
        return None
    images, labels = _pixels(real.train, device), labels_of(real.train.rows, attributes)
    test = _pixels(real.held_out, device), labels_of(real.held_out.rows, attributes)
    patients = [row.get("patient_id", i) for i, row in enumerate(real.held_out.rows)]

    def row(name: str, kind: str, pixels: Tensor, truth: np.ndarray) -> dict[str, Any]:
        encoder = train_classifier(pixels, truth, attributes, epochs, seed)
        scores = measure_classifier(encoder, *test, patients, seed)
        return {"label": name, "kind": kind, "images": len(pixels), **scores}

    rows = [row("real images", "real", images, labels)]
    for fake in fakes:
        if fake.label not in asked:
            continue
        made = _pixels(fake.images, device)
        both = torch.cat([images, made]), np.concatenate([labels, asked[fake.label]])
        again = np.arange(len(both[0])) % len(images)
        rows += [
            row(f"{fake.label} alone", "fake", made, asked[fake.label]),
            row(f"real and {fake.label}", "both", *both),
            row(
                f"real again, as many as with {fake.label}", "control", images[again], labels[again]
            ),
        ]
    return {"attributes": list(attributes), "epochs": epochs, "rows": rows}


def train_classifier(
    pixels: Tensor, labels: np.ndarray, attributes: tuple[str, ...], epochs: int, seed: int
) -> MiniEncoder:
    """The small encoder's architecture, from random weights, for whole epochs.

    Args:
        pixels: uint8, N x 3 x 64 x 64.
        labels: N x A, 1, 0 or NaN (not known).
    """
    seed_everything(seed, "use")
    settings = TrainEncoderSettings(data=("",), faulty=0.0, seed=seed)  # of the augmentation
    network = MiniEncoder(EncoderConfig(attributes, 3, SIDE, WIDTH)).to(pixels.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.02)
    steps = max(1, epochs * len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    truth = torch.from_numpy(labels).float().to(pixels.device)
    rarity = ((truth == 0).sum(0) / (truth == 1).sum(0).clamp_min(1)).clamp(0.2, 10)
    for step in range(steps):
        items = batch_at(step, len(pixels), min(BATCH, len(pixels)), seed)
        batch, _ = augment(pixels[items].float() / 255, settings, step)
        loss = masked_loss(network.train()(batch)[1], truth[items], rarity)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def measure_classifier(
    network: MiniEncoder, pixels: Tensor, truth: np.ndarray, patients: Sequence[Any], seed: int
) -> dict[str, Any]:
    """Mean AUROC over the findings, sensitivity and specificity at probability 0.5 over all of
    them, each with an interval by patient."""
    parts = [network(part.float() / 255)[1] for part in pixels.split(256)]
    logits = torch.cat(parts).cpu().numpy()
    counts = resample_counts(patients, 200, seed, "use")
    scores: dict[str, Any] = {"auroc": mean_auroc(truth, logits, patients, seed)}
    for name, wanted in (("sensitivity", 1), ("specificity", 0)):
        cases = (truth == wanted).sum(1)
        right = ((truth == wanted) & ((logits > 0) == wanted)).sum(1)
        value = float(right.sum() / max(1, cases.sum()))
        with np.errstate(invalid="ignore"):  # a resample may hold no such case
            low, high = interval(value, counts @ right / (counts @ cases))
        scores[name] = {"value": value, "low": max(0.0, low), "high": min(1.0, high)}
    return scores


def _pixels(images: ImageSet, device: str) -> Tensor:
    """uint8, N x 3 x 64 x 64."""
    found = np.concatenate(list(pixel_batches(images, PixelPath(SIDE, "RGB"), 256)))
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous().to(device)
