"""Captions as the text encoder reads them: token numbers, or embeddings made once."""

import re
from collections.abc import Iterable, Sequence

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from core.seeds import stream
from finetune.models import send, tokenize
from finetune.new_word import Embedding, spelt
from finetune.settings import check_heard

EMBED_AT_ONCE = 16  # captions
ON_DEVICE = 2**30  # bytes of embeddings that may be kept
ORDERS = 8  # of a shuffled caption's parts
COMMA = re.compile(r",(?!(?<=\d,)\d)\s*")  # but that of 1,000


def orders(caption: str, shuffle: bool) -> list[str]:
    """The caption, or `ORDERS` of it with the parts after its first comma in other orders."""
    first, *rest = COMMA.split(caption)
    rest = [part for part in rest if part]
    if not shuffle or len(rest) < 2:
        return [caption]
    shuffled = [caption]
    for number in range(1, ORDERS):
        order = torch.randperm(len(rest), generator=stream(number, "order", caption)).tolist()
        shuffled.append(", ".join([first, *(rest[place] for place in order)]))
    return shuffled


def lengths(tokenizer: CLIPTokenizer, texts: Iterable[str]) -> list[int]:
    """Tokens of each text, besides start and end."""
    hush(tokenizer)
    return [len(tokenizer.tokenize(text)) for text in texts]


def hush(tokenizer: CLIPTokenizer) -> None:
    """No warning of errors by texts that are too long: they are told of, and cut, by us."""
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True


class Words:
    """Distinct captions as token numbers, or as embeddings where the text encoder is frozen."""

    def __init__(
        self,
        captions: Sequence[str],
        pipeline: StableDiffusionPipeline,
        trained: bool,
        shuffle: bool = False,
        learned: bool = True,
    ) -> None:
        """
        Args:
            trained: the text encoder or a new word learns too, so embeddings cannot be kept.
            shuffle: keep several orders of each caption's parts.
            learned: they are trained on, not only measured with.

        Raises UserError where a new word would be learned, and no caption has it.
        """
        tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
        known = encoder.get_input_embeddings()
        if learned and isinstance(known, Embedding):
            check_heard(tokenizer.convert_ids_to_tokens(known.first), captions)
        texts = [""]
        self.place = {"": (0, 1)}  # first of a caption's orders in the table, their count
        for caption in dict.fromkeys(captions):
            found = orders(caption, shuffle)
            self.place.setdefault(caption, (len(texts), len(found)))
            texts += found
        hush(tokenizer)
        texts = [spelt(text, tokenizer) for text in texts]
        texts = pipeline.maybe_convert_prompt(texts, tokenizer)  # a new word may be several tokens
        self.table = tokenize(tokenizer, texts)
        given = [texts[first] for first, _ in self.place.values()]
        self.cut = sum(n > self.table.shape[1] - 2 for n in lengths(tokenizer, given))
        """Captions too long for the text encoder: their end is not read."""
        size = self.table.numel() * encoder.config.hidden_size * 4
        self.embedded = not trained and size <= ON_DEVICE
        if self.embedded:
            with torch.no_grad():
                parts = self.table.to(encoder.device).split(EMBED_AT_ONCE)
                self.table = torch.cat([encoder(part)[0] for part in parts])

    def of(
        self, captions: Sequence[str], silent: torch.Tensor, order: torch.Tensor
    ) -> torch.Tensor:
        """B x 77 (x D); a silent caption is the empty one; `order` (B, in [0, 1)) picks one.

        Where there is one caption in all, B times a view of it.
        """
        if len(self.table) == 2 and not any(silent.tolist()):
            return self.table[1].expand(len(captions), *self.table.shape[1:])
        first, count = torch.tensor([self.place[caption] for caption in captions]).unbind(1)
        numbers = first + (order * count).long()
        return self.table[send(torch.where(silent, 0, numbers), self.table.device)]
