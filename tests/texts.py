"""Tiny tokenizers as the hub has them, and documents whose reading is counted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lt_cli.data.text_sources import TextSource
from lt_cli.data.tokenizers import ByteTokenizer

SENTENCES = [
    "the cat sat on the mat and looked at the other cat",
    "a tokenizer learns which letters stand together",
    "Grüße aus Köln, the city of the cat",
]


def _saved(tokenizer: Tokenizer, folder: Path, **tokens: str) -> Path:
    """A directory with tokenizer.json and what transformers wants beside it."""
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    return folder


def _byte_level(*special: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=[*special], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def gpt2_like(folder: Path) -> Path:
    """Bytes in pairs, with one token that begins and ends a text, and puts nothing around it itself."""
    return _saved(_byte_level("<|endoftext|>"), folder, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def endless(folder: Path) -> Path:
    """The same without any special token."""
    return _saved(_byte_level(), folder)


def roberta_like(folder: Path) -> Path:
    """Bytes in pairs within <s> and </s>, and a mask that takes the space before it."""
    from tokenizers import AddedToken

    tokenizer = _byte_level("<s>", "</s>", "<pad>")
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=list(ids.items())
    )
    mask: Any = AddedToken("<mask>", lstrip=True, special=True)
    return _saved(tokenizer, folder, bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token=mask)


def bert_like(folder: Path) -> Path:
    """Lower-case pieces of words within [CLS] and [SEP], cut to 8 tokens unless that is undone."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return _saved(tokenizer, folder, **names)


def llama_like(folder: Path) -> Path:
    """Pieces of words behind <s>; </s> is there, and put nowhere."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return _saved(tokenizer, folder, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def t5_like(folder: Path) -> Path:
    """Pieces of words before </s>, with <pad>, which begins what the decoder writes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return _saved(tokenizer, folder, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


KINDS = {
    "gpt2": gpt2_like,
    "endless": endless,
    "roberta": roberta_like,
    "bert": bert_like,
    "llama": llama_like,
    "t5": t5_like,
}


class Documents(TextSource):
    """Given texts; every one that is read is noted.

    Args:
        train: Those for training.
        val: For validation, or None where there are none.
        test: The same for test.
        name: What the fingerprint says; None for none.
        streamed: Whether they are too many to be read whole.
    """

    def __init__(
        self,
        train: list[str],
        *,
        val: list[str] | None = None,
        test: list[str] | None = None,
        name: str | None = None,
        streamed: bool = False,
    ) -> None:
        self.texts = {"train": train, "val": val, "test": test}
        self.name, self.streamed = name, streamed
        self.read: list[tuple[str, int]] = []

    def _read(self, split: str, first: int = 0) -> Iterator[str]:
        for number, text in enumerate((self.texts[split] or [])[first:], first):
            self.read.append((split, number))
            yield text

    def documents(self, split: Any) -> Iterator[str] | None:
        return None if self.texts[split] is None else self._read(split)

    def documents_from(self, number: int) -> Iterator[str]:
        return self._read("train", number)

    def fingerprint(self, split: Any) -> str | None:
        return None if self.name is None else f"{self.name} {split}"


class CountingTokenizer(ByteTokenizer):
    """Bytes; what is encoded is noted."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Any) -> Any:
        self.encoded += texts
        return super().encode(texts)


def letters(num_documents: int, *, seed: int = 0, longest: int = 30) -> list[str]:
    """Random texts of 1 to ``longest`` letters, some of them of several bytes."""
    generator = np.random.default_rng(seed)
    return [
        "".join(generator.choice(list("abcdef gü"), size=generator.integers(1, longest)).tolist()).replace(" ", "x ")
        for _ in range(num_documents)
    ]
