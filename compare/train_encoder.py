"""Train the embedded encoder to read attributes off images.

    python -m compare.train_encoder --data '[data/phantoms]' --out models/encoder-mini

A plain supervised loop: multi-label binary cross-entropy over "column=value" attributes, where what
a row does not say of itself is left out. Minutes on a CPU.
"""

import sys
import time
from collections.abc import Sequence
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
from compare.templating import text_templates
from core.config import parse, to_dict
from core.errors import UserError, command
from core.files import write_json, write_text
from core.runs import commit, versions
from core.seeds import batch_at, seed_everything, stream
from core.session import pick_device
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
    encoder = MiniEncoder(EncoderConfig(attributes, 3, settings.size, settings.width)).to(device)
    optimiser = torch.optim.AdamW(
        encoder.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=settings.steps + 1, pct_start=0.1
    )
    positive = (labels == 1).sum(0)
    negative = (labels == 0).sum(0)
    rarity = (negative / positive.clamp_min(1)).clamp(0.2, 10)  # weight of the positives

    began = time.monotonic()
    with tqdm(range(settings.steps), desc="encoder", unit="step", mininterval=0.5) as bar:
        for step in bar:
            items = batch_at(step, len(images), settings.batch, settings.seed)
            batch = augment(images[items].float() / 255, settings, step)
            target = labels[items]
            _, logits = encoder.train()(batch)
            loss = masked_loss(logits, target, rarity)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 20 == 0:
                bar.set_postfix_str(f"loss {loss.item():.3f}")
    seconds = time.monotonic() - began

    encoder.standardise(_features(encoder, images))
    save_encoder(encoder, settings.out)
    metrics = {
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "sha256": encoder_hash(settings.out),
        "train_images": len(images),
        "train_fingerprints": {one.name: one.fingerprint for one in train_sets},
        "attributes": measure(load_encoder(settings.out, device), settings.data),
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


def augment(images: Tensor, settings: TrainEncoderSettings, step: int) -> Tensor:
    """Shift, soften, re-light and roughen images in [0, 1], B x C x H x W; never mirrored, as
    sides and letters carry meaning."""
    generator = stream(settings.seed, "augment", step)
    count, _, height, width = images.shape

    def uniform(most: float) -> Tensor:
        draw = torch.rand((count, 1, 1, 1), generator=generator) * most
        return draw.to(images.device)

    if settings.shift:
        padded = F.pad(images, (settings.shift,) * 4, mode="replicate")
        places = torch.randint(0, 2 * settings.shift + 1, (count, 2), generator=generator).tolist()
        images = torch.stack(
            [padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(places)]
        )
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, soft, uniform(settings.blur).expand_as(images))
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + uniform(2 * settings.contrast) - settings.contrast)
    images = images + uniform(2 * settings.brightness) - settings.brightness
    rough = torch.randn(images.shape, generator=generator).to(images.device)
    return (images + rough * uniform(settings.noise)).clamp(0, 1)


def measure(encoder: MiniEncoder, data: Sequence[str]) -> dict[str, dict[str, Any]]:
    """AUROC and accuracy of every attribute over the validation splits of `data`.

    Accuracy is balanced: the mean of sensitivity and specificity at probability 0.5.
    """
    sets = [open_set(path, "validation") for path in data]
    attributes = encoder.config.attributes
    device = next(encoder.parameters()).device
    images, labels = _load(sets, encoder.config.size, attributes, str(device))
    logits = _run(encoder, images)[1].cpu().numpy()
    truth = labels.cpu().numpy()
    table = {}
    for place, attribute in enumerate(attributes):
        known = ~np.isnan(truth[:, place])
        wanted, score = truth[known, place] == 1, logits[known, place]
        if wanted.any() and not wanted.all():
            table[attribute] = {
                "auroc": round(float(roc_auc_score(wanted, score)), 4),
                "accuracy": round(
                    float(((score > 0)[wanted].mean() + (score <= 0)[~wanted].mean()) / 2), 4
                ),
                "positives": int(wanted.sum()),
                "images": int(known.sum()),
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
def _run(encoder: MiniEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    parts = [encoder.eval()(chunk.float() / 255) for chunk in images.split(256)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _features(encoder: MiniEncoder, images: Tensor) -> Tensor:
    return _run(encoder, images)[0].clone()  # out of inference mode, for standardise


if __name__ == "__main__":
    main()
