"""A small project for the app: a base, a LoRA run, a WGAN-GP, a VAE, a broken run, a report."""

from pathlib import Path

from core.files import write_json, write_jsonl
from finetune.settings import DreamBoothSettings, Lora, Optim
from finetune.train_dreambooth import train
from gan.networks import Generator
from gan.weights import save_generator
from tests.finetune.tiny import tiny_pipeline, write_images
from vae.networks import Vae
from vae.weights import save_model

ROOT = Path(__file__).resolve().parents[2]
REPORT = """<!doctype html><html lang="en"><head><title>A report</title></head>
<body><h1>Real against &quot;fake&quot;</h1><a href="#end">end</a>
<p id="end">The end.</p></body></html>
"""


def make_project(root: Path) -> Path:
    """models/{tiny,sd2-mini}, runs/{tuned,chest-gan,small-vae,broken}, reports/first: by the real
    code."""
    tiny_pipeline().save_pretrained(root / "models/tiny")
    (root / "models/sd2-mini").symlink_to(ROOT / "models/sd2-mini")
    write_images(root / "data/ramps")
    train(
        DreamBoothSettings(
            data=str(root / "data/ramps"),
            run_dir=str(root / "runs/tuned"),
            base=str(root / "models/tiny"),
            prompt="a ramp",
            steps=2,
            keep_weights=(1,),
            lora=Lora(rank=4),
            optim=Optim(lr=0.05),
        )
    )
    write_json(root / "runs/broken/run.json", {"family": "wgan-gp", "status": "finished"})
    (root / "runs/broken/weights").mkdir()
    (root / "runs/broken/weights/generator.safetensors").write_bytes(b"not tensors")
    write_json(root / "runs/broken/weights/config.json", {"size": 32})
    make_gan(root / "runs/chest-gan")
    make_vae(root / "runs/small-vae")
    write_images(root / "outside/by-hand")
    make_set(root / "data/prepared")
    for run in ("tuned", "chest-gan"):
        write_images(root / f"runs/{run}/samples/default")
    report = root / "reports/first/report.html"
    report.parent.mkdir(parents=True)
    report.write_text(REPORT, encoding="utf-8")
    return root


def make_gan(run: Path) -> None:
    """A run of the WGAN-GP with random weights; by its settings it was trained on X-rays."""
    shape = {"z_dim": 8, "size": 32, "channels": 1, "width": 2}
    save_generator(Generator(**shape), shape, run / "weights")
    write_json(run / "run.json", {"family": "wgan-gp", "status": "finished", "steps": 7})
    (run / "config.yaml").write_text("data: data/chest-x-rays\n")


def make_vae(run: Path) -> None:
    """A run of the VAE with random weights; it tells no settings to go on with."""
    shape = {"latent_dim": 8, "img_size": 32, "in_channels": 1, "width": 4, "depth": 2}
    save_model(Vae(**shape), shape, run / "weights")
    write_json(run / "run.json", {"family": "vae", "status": "finished", "steps": 5})


def make_set(folder: Path) -> None:
    """A prepared set with a train split alone."""
    write_images(folder / "train")
    files = sorted((folder / "train").glob("*.png"))
    rows = [{"file_name": file.name, "text": f"ramp {file.stem}", "view": "PA"} for file in files]
    write_jsonl(folder / "train/metadata.jsonl", rows)
    write_json(folder / "set.json", {"mode": "RGB", "rejected": []})
