"""Settings of the DreamBooth and LoRA trainer. Imports without torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from core.bounds import check_bounds
from core.errors import UserError
from core.radiographs import RADIOGRAPH

Part = Literal["attention", "feedforward", "projection", "convolution"]
Schedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
Augmentation = Literal["mirror", "crop", "turn", "light"]
BOUNDS = {
    "above 0": ("optim.lr", "token.lr", "lora.alpha", "min_snr_gamma"),
    "at least 1": (
        *("steps", "batch", "accumulate", "checkpoints_kept", "keep_weights"),
        *("lora.rank", "prior.count", "token.vectors"),
    ),
    "0 or more": (
        *("optim.warmup", "optim.weight_decay", "optim.clip_norm", "prior.weight"),
        *("noise_offset", "input_perturbation"),
        *("checkpoint_every", "validate_every", "preview_every"),
    ),
    "at least 0 and below 1": ("optim.betas", "lora.dropout", "caption_dropout"),
    "between 0 and 1": ("ema_decay",),
}
"""See `core.bounds`."""


@dataclass(frozen=True)
class Optim:
    """The optimiser and its learning rate."""

    name: Literal["adamw", "adamw8bit", "prodigy", "schedule_free"] = "adamw"
    """adamw8bit (bitsandbytes), prodigy (lr 1) and schedule_free need packages of their own."""
    lr: float = 1e-4
    """Learning rate after warm-up: about 1e-4 for LoRA, 5e-6 where every weight is trained."""
    schedule: Schedule = "constant"
    """Course of the learning rate over the run, one of diffusers' own; "cosine_with_restarts" falls
    once, as "cosine" does."""
    warmup: int = 0
    """Steps of linear warm-up; "constant" knows none, "constant_with_warmup" does."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all trained weights; 0: no limit."""

    def __post_init__(self) -> None:
        if self.name == "schedule_free" and (self.schedule != "constant" or self.warmup):
            raise ValueError("schedule_free takes schedule constant and no warmup")
        if self.schedule == "constant" and self.warmup > 0:
            raise ValueError(
                f"optim.warmup {self.warmup} does nothing where optim.schedule is constant; "
                "give --optim.schedule constant_with_warmup"
            )


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) in place of training every weight."""

    rank: int = 4
    """Rank of each update."""
    alpha: float = 4.0
    """The update is scaled by alpha / rank."""
    targets: tuple[Part, ...] = ("attention",)
    """Layers that get an adapter. The text encoder has attention and feedforward only."""
    dropout: float = 0.0
    """Share of an adapter's inputs left out while training."""
    kind: Literal["plain", "dora", "rslora"] = "plain"
    """dora: magnitudes apart from directions (Liu et al. 2024); rslora: scaled by alpha /
    sqrt(rank) (Kalajdzievski 2023), for high ranks."""


@dataclass(frozen=True)
class Prior:
    """Prior preservation (Ruiz et al. 2023): beside each image one of its class, by the base."""

    prompt: str | tuple[str, ...]
    """What the class is called, such as "a photo of an animal"; several prompts, such as one
    for each concept, take turns, so that every class has as many images; your own images then
    have captions."""
    count: int = 100
    """Class images."""
    weight: float = 1.0
    """Of the class images' loss beside the images' own."""
    folder: str | None = None
    """Where class images lie; one of your own, or a
    prepared set or split, is used as it is. null: data/class/<fingerprint>."""

    @property
    def prompts(self) -> list[str]:
        """At least one; "" where one is empty."""
        given = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        return [text.strip() for text in given] or [""]


@dataclass(frozen=True)
class Concept:
    """One more subject, learned in the same run as often as the first."""

    data: str
    """Prepared set or plain folder of images."""
    prompt: str | None = None
    """One prompt for all its images; null: each image's caption."""


@dataclass(frozen=True)
class Token:
    """A new word: textual inversion (Gal et al. 2022), or pivotal tuning beside LoRA."""

    name: str
    """What prompts call the subject, such as "<sinomacrops>"."""
    initialiser: str
    """Known words whose embedding it starts from, such as "pterosaur"; where they are more tokens
    than vectors, each vector starts from the mean of its share."""
    vectors: int = 1
    """Embeddings that the word stands for."""
    lr: float = 1e-3
    """Their learning rate; prodigy wants that of optim."""


@dataclass(frozen=True)
class DreamBoothSettings:
    """Fine-tune Stable Diffusion 1.x, 2.x or the embedded base on few images or a captioned set."""

    data: str
    """Prepared set (its train split), or plain folder of images, with captions or without."""
    run_dir: str
    """Run folder. The same command on it goes on where it was stopped."""
    base: str = "models/sd2-mini"
    """What to start from: a folder in diffusers' format or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null: its main branch, pinned when the run starts."""
    steps: int = 500
    """Optimiser steps."""
    seed: int = 0
    """Of adapters, order, noise and timesteps."""
    size: int | None = None
    """Pixels a side; null: the base's own."""
    batch: int = 4
    """Images a step, over all processes; prior preservation adds as many class images."""
    accumulate: int = 1
    """Pieces that each process cuts its share of the batch into, to save memory."""
    prompt: str | None = None
    """One prompt for all images; null: each image's caption, in the set's metadata, or, in a plain
    folder, in a .txt file beside it or metadata.jsonl."""
    concepts: tuple[Concept, ...] = ()
    """More subjects beside `data`, as [{data: ..., prompt: ...}, ...]; prior.prompt takes one class
    for each of them."""
    buckets: bool = False
    """Keep the images' shapes: batches of like aspect ratio, none cropped to a square."""
    caption_dropout: float = 0.0
    """Share of captions left out, so that guidance has something to lean on."""
    caption_shuffle: bool = False
    """Give a caption's parts between commas, but the first, in varying order."""
    augment: tuple[Augmentation, ...] = ()
    """Varied at every step: mirror (never X-rays: the heart would change sides), crop, turn, light.
    All but mirror need every image encoded anew at each step."""
    lora: Lora | None = field(default_factory=Lora)
    """null: train every weight of the UNet."""
    unet: bool = True
    """Train the UNet; false: only the text encoder or a new word."""
    text_encoder: bool = False
    """Train the text encoder too."""
    token: Token | None = None
    """null: no new word."""
    optim: Optim = field(default_factory=Optim)
    """Optimiser."""
    prior: Prior | None = None
    """null: no prior preservation."""
    min_snr_gamma: float | None = None
    """Min-SNR loss weight (Hang et al. 2023; 5 is usual); null: all timesteps weigh the same."""
    noise_offset: float = 0.0
    """Strength of noise that is one number per channel: teaches very dark and bright images."""
    input_perturbation: float = 0.0
    """Strength of noise added to the input alone (Ning et al. 2023; 0.1 is usual)."""
    timesteps: Literal["uniform", "logit_normal", "cubic"] = "uniform"
    """Where training looks: everywhere alike, at middle noise, or at much noise."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that it ends in pure noise (Lin et al. 2023); v-prediction."""
    ema_decay: float | None = None
    """Save the moving average of the weights with this decay; null: the weights themselves."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    compile: bool = False
    """torch.compile the UNet: from half a minute (sd2-mini) at the start, then faster steps. With
    buckets as much again, or more, at the first step of each shape."""
    cache_latents: bool = True
    """Encode each image once. The autoencoder's sampling noise is still drawn at every step."""
    checkpoint_every: int = 250
    """Steps between checkpoints; 0: none."""
    checkpoints_kept: int = 1
    """Newest checkpoints kept."""
    keep_weights: tuple[int, ...] = ()
    """Steps whose weights are kept too, as RUN/weights-000050 (generate --weights 50)."""
    validate_every: int = 0
    """Steps between measurements against the set's validation images: the loss at the same noise
    each time, and scores of drawn images; the best weights are kept in RUN/best. 0: none."""
    preview_every: int = 0
    """Steps between preview sheets; 0: none."""
    preview_prompts: tuple[str, ...] = ()
    """Rows of the sheet, and a sampler's prompts where none is given; none: those trained on."""
    preview_seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Columns of the sheet."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where to send the losses beside metrics.jsonl."""

    def __post_init__(self) -> None:
        check_bounds(self, BOUNDS)
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} cannot be cut into {self.accumulate} pieces")
        if self.size is not None and (self.size < 16 or self.size % 8):
            raise ValueError(f"size must be a multiple of 8, at least 16, not {self.size}")
        if self.lora is not None and not self.lora.targets:
            raise ValueError("lora.targets must name a layer, such as attention")
        if (
            self.lora is not None
            and self.text_encoder
            and not {"attention", "feedforward"} & {*self.lora.targets}
        ):
            raise ValueError("text_encoder needs attention or feedforward in lora.targets")
        if self.prior is not None and not all(self.prior.prompts):
            raise ValueError("prior.prompt must say what the class is, and is empty")
        classes, concepts = len(self.prior.prompts) if self.prior else 1, len(self.subjects)
        if concepts > 1 and classes not in (1, concepts):
            raise ValueError(
                f"prior.prompt names {classes} classes of {concepts} concepts; "
                "give one for each in their order, or one for all"
            )
        if self.buckets and self.prior is not None:
            raise ValueError("buckets go without prior: class images are square")
        if (self.preview_every or self.validate_every) and not self.preview_seeds:
            raise ValueError("preview_every and validate_every need preview_seeds")
        if not (self.unet or self.text_encoder or self.token):
            raise ValueError("unet false leaves nothing to train; give text_encoder or token")
        if self.token is not None and not self.token.name.strip():
            raise ValueError("token.name must not be empty")
        if self.token is not None and self.token.name != self.token.name.lower():
            raise ValueError(
                "token.name must be in small letters, as the base reads every text; "
                f"give {self.token.name.lower()}"
            )
        prodigy = self.optim.name == "prodigy"
        if prodigy and self.token is not None and self.token.lr != self.optim.lr:
            raise ValueError(f"prodigy takes one learning rate: give token.lr {self.optim.lr}")
        prompts = [concept.prompt for concept in self.subjects if concept.prompt is not None]
        if "mirror" in self.augment and any(map(RADIOGRAPH.search, prompts)):  # sets: see augment
            raise ValueError(
                "augment mirror would put the heart on the right in X-rays; leave mirror out"
            )
        if self.token is not None and len(prompts) == len(self.subjects):  # captions: see Words
            check_heard(self.token.name, prompts)

    @property
    def subjects(self) -> list[Concept]:
        """All that is learned, `data` first."""
        return [Concept(self.data, self.prompt), *self.concepts]

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained."""
        return self.lora is not None and (self.unet or self.text_encoder)

    @property
    def whole(self) -> bool:
        """Whether networks are trained themselves, so that all of them have to be saved."""
        return self.lora is None and (self.unet or self.text_encoder)


def check_heard(word: str, captions: Iterable[str]) -> None:
    """Raise UserError where a new word stands in none of the captions that it is learned from, in
    capitals or not: the base reads small letters."""
    if not any(word.lower() in caption.lower() for caption in captions):
        raise UserError(
            f"No caption contains the new word {word}, so it would learn nothing; "
            f'give --prompt "a {word}", or captions with it.'
        )
