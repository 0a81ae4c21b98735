"""A new word in the text encoder: textual inversion (Gal et al. 2022).

Only its embeddings are trained, beside whatever else is. Saved as diffusers' own
`load_textual_inversion` reads it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from core.errors import UserError
from finetune.models import check_unknown
from finetune.settings import Token

FILE = "learned_embeds.safetensors"


class Embedding(nn.Module):
    """The text encoder's table of D numbers a token; the last rows, the new word's, are trained."""

    def __init__(self, table: nn.Embedding, first: int) -> None:
        super().__init__()
        self.table = table
        self.first = first
        self.vectors = nn.Parameter(table.weight[first:].detach().clone().float())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """B x 77 token numbers -> B x 77 x D"""
        learned = F.embedding((tokens - self.first).clamp(min=0), self.vectors)
        known = self.table(tokens)
        return torch.where((tokens >= self.first)[..., None], learned.to(known.dtype), known)


def add_word(pipeline: StableDiffusionPipeline, token: Token) -> str:
    """Teach tokenizer and text encoder the word, as its initialiser; its rows can then be trained.

    Returns a sentence on where it starts; "" where its initialiser is one token.

    Raises UserError where the word is known already.
    """
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    check_unknown(tokenizer, token.name)
    numbers = _initial(tokenizer, token)
    pieces = encoder.get_input_embeddings().weight.detach()[numbers]
    _learn(pipeline, start_of(pieces, token.vectors), token.name)
    first = tokenizer.convert_tokens_to_ids(token.name)
    encoder.set_input_embeddings(Embedding(encoder.get_input_embeddings(), first))
    encoder.requires_grad_(False)
    return where_it_starts(tokenizer, token)


def _initial(tokenizer: CLIPTokenizer, token: Token) -> list[int]:
    numbers = tokenizer(token.initialiser, add_special_tokens=False).input_ids
    if not numbers:
        raise UserError("token.initialiser is empty; give a word such as pterosaur.")
    return numbers


def start_of(pieces: torch.Tensor, vectors: int) -> torch.Tensor:
    """V x D from an initialiser's P x D: up to V pieces in turn; more are cut into V runs, one
    longer than another by one at most, and each vector is the mean of one."""
    if len(pieces) <= vectors:
        return pieces[torch.arange(vectors) % len(pieces)]
    return torch.stack([run.mean(dim=0) for run in pieces.tensor_split(vectors)])


def where_it_starts(tokenizer: CLIPTokenizer, token: Token) -> str:
    """A sentence for a word whose initialiser is several tokens; "" where it is one."""
    pieces = len(_initial(tokenizer, token))
    if pieces == 1:
        return ""
    how = " starts from their mean"
    if token.vectors > 1:
        source = "them, in turn" if pieces <= token.vectors else "the mean of their share each"
        how = f"'s {token.vectors} vectors start from {source}"
    return f"'{token.initialiser}' is {pieces} tokens of this base; the new word{how}."


def vectors_of(text_encoder: CLIPTextModel) -> nn.Parameter:
    """What is trained of a new word, V x D."""
    return text_encoder.get_input_embeddings().vectors


def save_word(text_encoder: CLIPTextModel, token: Token, folder: Path) -> None:
    vectors = vectors_of(text_encoder).detach().cpu().contiguous()
    save_file({token.name: vectors}, folder / FILE)


def load_word(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Give the pipeline the word saved in `folder`, if there is one."""
    if (folder / FILE).exists():
        ((name, vectors),) = load_file(folder / FILE).items()
        _learn(pipeline, vectors, name)
        pipeline.text_encoder.requires_grad_(False)


def _learn(pipeline: StableDiffusionPipeline, vectors: torch.Tensor, name: str) -> None:
    """Give the pipeline the word. Its rows are made beforehand: diffusers has them drawn by chance,
    which takes the whole table's covariance, and a warning, before it fills them."""
    size = len(pipeline.tokenizer) + len(vectors)
    pipeline.text_encoder.resize_token_embeddings(size, mean_resizing=False)
    pipeline.load_textual_inversion(vectors.clone(), token=name)


def new_words(tokenizer: CLIPTokenizer) -> list[str]:
    """What was added to a base's vocabulary: of several vectors a word each."""
    return sorted(tokenizer.get_added_vocab().keys() - set(tokenizer.all_special_tokens))


def spelt(text: str, tokenizer: CLIPTokenizer) -> str:
    """The text with each word of several vectors as it was taught: tokenizers read it in capitals
    and with wider gaps, too, but there diffusers would put in the first of its vectors alone."""
    known = new_words(tokenizer)
    for word in known:
        if f"{word}_1" in known:
            seen = r"\s+".join(re.escape(part) for part in word.split())
            text = re.sub(seen, word.replace("\\", r"\\"), text, flags=re.IGNORECASE)
    return text


@contextmanager
def settled(text_encoder: CLIPTextModel) -> Iterator[None]:
    """For a while, a new word as part of an ordinary table: what plain diffusers saves."""
    words = text_encoder.get_input_embeddings()
    if isinstance(words, Embedding):
        with torch.no_grad():
            words.table.weight[words.first :] = words.vectors
        text_encoder.set_input_embeddings(words.table)
    yield
    text_encoder.set_input_embeddings(words)
