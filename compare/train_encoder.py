"""Train the embedded encoder to read attributes off images.

    python -m compare.train_encoder --data '[data/phantoms]' --out models/encoder-mini

A plain supervised loop: multi-label binary cross-entropy over "column=value" attributes, where what
a row does not say of itself is left out. Minutes on a CPU.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from compare.attributes import attributes_of, labels_of
from compare.encoder import EncoderConfig, MiniEncoder, encoder_hash, load_encoder, save_encoder
from compare.encoder_settings import TrainEncoderSettings
from compare.faults import FAULTS, apply_faults
from compare.templating import text_templates
from core.config import parse, to_dict
from core.device import pick_device
from core.errors import UserError, command
from core.files import write_json, write_text
from core.provenance import commit, versions
from core.seeds import batch_at, seed_everything, stream
from core.sets import ImageSet, open_set


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Train the embedded encoder."""
    settings, dry_run = parse(TrainEncoderSettings, argv, "Train the small encoder.")
    train_sets = [open_set(path, "train") for path in settings.data]
    attributes = attributes_of([row for one in train_sets for row in one.rows], settings.columns)
    if not attributes:
        raise UserError(f"No column of {', '.join(settings.data)} holds attributes to read.")
    print(f"{sum(map(len, train_sets))} images, {len(attributes)} attributes.", file=sys.stderr)
    if dry_run:
        print("\n".join(attributes))
        return
    train_encoder(settings, train_sets, attributes)
    print(f"{settings.out}: encoder and metrics. `osteon compare` uses it.")


def train_encoder(
    settings: TrainEncoderSettings, train_sets: Sequence[ImageSet], attributes: tuple[str, ...]
) -> dict[str, Any]:
    """Train, write `settings.out` (config.json, model.safetensors, metrics.json, README.md) and
    return the metrics on the validation splits."""
    device = pick_device()
    images, labels = _load(train_sets, settings.size, attributes, device)
    seed_everything(settings.seed, "encoder")
    names = attributes + FAULTS
    encoder = MiniEncoder(EncoderConfig(names, 3, settings.size, settings.width)).to(device)
    optimiser = torch.optim.AdamW(
        encoder.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=settings.steps + 1, pct_start=0.1
    )
    positive = (labels == 1).sum(0)
    negative = (labels == 0).sum(0)
    rarity = (negative / positive.clamp_min(1)).clamp(0.2, 10)  # weight of the positives
    rarity = torch.cat([rarity, torch.ones(len(FAULTS), device=device)])

    began = time.monotonic()
    with tqdm(range(settings.steps), desc="encoder", unit="step", mininterval=0.5) as bar:
        for step in bar:
            items = batch_at(step, len(images), settings.batch, settings.seed)
            batch, faults = augment(images[items].float() / 255, settings, step)
            _, logits = encoder.train()(batch)
            loss = masked_loss(logits, torch.cat([labels[items], faults], 1), rarity)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 20 == 0:
                bar.set_postfix_str(f"loss {loss.item():.3f}")
    seconds = time.monotonic() - began

    encoder.eval()
    encoder.standardise(_run(encoder.pool, images))
    save_encoder(encoder, settings.out)
    metrics = {
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "sha256": encoder_hash(settings.out),
        "train_images": len(images),
        "train_fingerprints": {one.name: one.fingerprint for one in train_sets},
        "attributes": measure(load_encoder(settings.out, device), settings.data, settings.noise),
        "settings": to_dict(settings),
        "versions": versions(),
        **commit(),
    }
    write_json(Path(settings.out) / "metrics.json", metrics)
    write_text(Path(settings.out) / "README.md", model_card(metrics))
    return metrics


def masked_loss(logits: Tensor, target: Tensor, rarity: Tensor) -> Tensor:
    """Mean binary cross-entropy over the labels that are known (B x A; NaN: not known)."""
    known = ~torch.isnan(target)
    loss = F.binary_cross_entropy_with_logits(
        logits, target.nan_to_num(), pos_weight=rarity, reduction="none"
    )
    return (loss * known).sum() / known.sum().clamp_min(1)


def augment(images: Tensor, settings: TrainEncoderSettings, step: int) -> tuple[Tensor, Tensor]:
    """Shift and re-light images in [0, 1], B x C x H x W, and put faults in; never mirrored, as
    sides and letters carry meaning. Also returns how much of each fault, B x 3 in [0, 1]."""
    generator = stream(settings.seed, "augment", step)
    count, _, height, width = images.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand((count, *shape), generator=generator).to(images.device)

    if settings.shift:
        padded = F.pad(images, (settings.shift,) * 4, mode="replicate")
        places = torch.randint(0, 2 * settings.shift + 1, (count, 2), generator=generator).tolist()
        images = torch.stack(
            [padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(places)]
        )
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = 1 + settings.contrast * (2 * uniform(1, 1, 1) - 1)
    brightness = settings.brightness * (2 * uniform(1, 1, 1) - 1)
    images = mean + (images - mean) * contrast + brightness
    amounts = uniform(3) * (uniform(3) < settings.faulty)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return apply_faults(images.clamp(0, 1), amounts, noise, settings.noise), amounts


def measure(encoder: MiniEncoder, data: Sequence[str], noise: float) -> dict[str, dict[str, Any]]:
    """AUROC and accuracy of every attribute over the validation splits of `data`; of the faults, on
    the same images without and with the whole of each.

    Accuracy is balanced: the mean of sensitivity and specificity at probability 0.5.
    """
    sets = [open_set(path, "validation") for path in data]
    attributes = encoder.config.attributes
    device = next(encoder.parameters()).device
    images, labels = _load(sets, encoder.config.size, attributes, str(device))
    clean = _run(lambda batch: encoder(batch)[1], images).cpu().numpy()
    truth = labels.cpu().numpy()
    table = {}
    for place, attribute in enumerate(attributes):
        if attribute in FAULTS:
            amounts = torch.zeros(len(images), len(FAULTS), device=device)
            amounts[:, FAULTS.index(attribute)] = 1
            rough = torch.randn(images.shape, generator=stream(0, "validation")).to(device)
            faulty = apply_faults(images.float() / 255, amounts, rough, noise)
            scores = _run(lambda batch: encoder(batch)[1], faulty * 255)[:, place].cpu().numpy()
            score = np.concatenate([clean[:, place], scores])
            wanted = np.arange(len(score)) >= len(images)
        else:
            known = ~np.isnan(truth[:, place])
            wanted, score = truth[known, place] == 1, clean[known, place]
        if wanted.any() and not wanted.all():
            right = ((score > 0)[wanted].mean() + (score <= 0)[~wanted].mean()) / 2
            table[attribute] = {
                "auroc": round(float(roc_auc_score(wanted, score)), 4),
                "accuracy": round(float(right), 4),
                "positives": int(wanted.sum()),
                "images": len(wanted),
            }
    return table


def model_card(metrics: dict[str, Any]) -> str:
    """README.md of the encoder's folder."""
    return text_templates().get_template("encoder_card.md.jinja").render(metrics)


def _load(
    sets: Sequence[ImageSet], size: int, attributes: Sequence[str], device: str
) -> tuple[Tensor, Tensor]:
    """uint8 N x 3 x size x size, and labels N x A."""
    pixels = np.concatenate([one.pixels(size, "RGB") for one in sets])
    labels = np.concatenate([labels_of(one.rows, attributes) for one in sets])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return images.to(device), torch.from_numpy(labels).to(device)


@torch.inference_mode()
def _run(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Over images of 0 to 255, in pieces."""
    parts = [network(chunk.float() / 255) for chunk in images.split(256)]
    return torch.cat(parts).clone()  # a tensor like any other, out of inference mode


if __name__ == "__main__":
    main()
