"""Text to tokens and back: any tokenizer of Hugging Face, and one of bytes that needs no files."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lt_cli.data.framing import Frame, Tokens
from lt_cli.errors import UserError, one_line

TEXTS_AT_ONCE = 2_000
"""Texts whose tokens are held as objects at a time; the threads of ``tokenizers`` share them out."""


class Tokenizer(ABC):
    """Text to tokens and back.

    Attributes:
        vocab_size: Above every id: their number, unless a tokenizer leaves some ids out.
        start_id: Begins every document and every prompt.
        end_id: Ends every document; the same as ``start_id`` where one token separates documents.
        mask_token: What a masked model fills in, as it is written in a text; or None.
        mask_id: Its id, or None.
        special_ids: Tokens that stand for no text.
    """

    vocab_size: int
    start_id: int
    end_id: int
    mask_token: str | None = None
    mask_id: int | None = None
    special_ids: frozenset[int] = frozenset()

    @property
    def frame(self) -> int:
        """Tokens that each document brings along besides those of its text."""
        return 1 if self.start_id == self.end_id else 2

    def frame_of(self, num_texts: int) -> Frame:
        """What a model expects around one text, or around two that belong together.

        A start, and an end behind each text, unless a tokenizer has a way of its own.
        """
        end = [(self.end_id, 0)]
        return Frame(([(self.start_id, 0)], *[end] * num_texts), (0, 1)[:num_texts])

    def load(self) -> None:  # noqa: B027  # one without files has nothing to do
        """Reads what it needs, or downloads it; on one process first, then on every one. Again changes nothing."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The tokens of each text, without start and end."""

    @abstractmethod
    def encode_with_spans(self, texts: Sequence[str]) -> list[Tokens]:
        """The same, with the characters that each token stands for."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; special tokens have none."""

    def encode_masked(self, text: str) -> NDArray[np.int32]:
        """The tokens of a text that has ``mask_token`` where a token is to be filled in."""
        assert self.mask_token is not None
        parts = self.encode(text.split(self.mask_token))
        return np.concatenate([parts[0], *(piece for part in parts[1:] for piece in ([self.mask_id], part))]).astype(
            np.int32
        )

    def decode_masked(self, ids: Sequence[int]) -> str:
        """The text of tokens, with ``mask_token`` where one is to be filled in."""
        if self.mask_token is None or self.mask_id not in ids:
            return self.decode(ids)
        places = [-1, *(i for i, token in enumerate(ids) if token == self.mask_id), len(ids)]
        return self.mask_token.join(self.decode(ids[i + 1 : j]) for i, j in pairwise(places))

    @abstractmethod
    def fingerprint(self) -> str:
        """Says the same of two tokenizers only if they give the same tokens."""

    def state_dict(self) -> dict[str, Any]:
        """All that makes it work without its files, in plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # one without files has nothing to do
        """Takes over what ``state_dict`` gave, unless the configuration names another one by now."""


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, a separator of documents (256) and a mask (257): any text, no files, no training."""

    vocab_size = 258
    start_id = end_id = 256
    mask_token, mask_id = "<mask>", 257
    special_ids = frozenset({256, 257})

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def encode_with_spans(self, texts: Sequence[str]) -> list[Tokens]:
        """The bytes of each text; all those of a character stand for it."""
        found = []
        for ids in self.encode(texts):
            character = np.cumsum((ids & 0xC0) != 0x80, dtype=np.int32)  # a byte 10…… goes on with one
            found.append(Tokens(ids, np.stack([character - 1, character], axis=1)))
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the bytes; those that are no UTF-8, as when a character is cut, become the replacement sign."""
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def fingerprint(self) -> str:
        """Always the same."""
        return "bytes"


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the Hugging Face hub, or of a local directory; a checkpoint holds all of it.

    Where a text spells a special token, such as ``</s>``, it is that token.

    Args:
        path: Name on the hub, or a directory with tokenizer.json.
        start_token: Token that begins documents; null for the one that the tokenizer itself puts there, or the end.
        end_token: Token that ends documents; null for the tokenizer's own.
    """

    def __init__(self, path: str, *, start_token: str | None = None, end_token: str | None = None) -> None:
        """Reads nothing."""
        self.path, self.start_token, self.end_token = path, start_token, end_token
        self.start_id = self.end_id = -1  # until it is read
        self._state: dict[str, Any] = {}
        self._tokenizer: Any = None

    def load(self) -> None:
        """Reads the files, unless a checkpoint brought it along."""
        if self._tokenizer is not None:
            return
        from transformers import AutoTokenizer

        try:
            whole = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        except Exception as error:  # transformers raises many kinds, over many lines
            where = "a directory with tokenizer.json" if Path(self.path).exists() else "a name on a hub within reach"
            raise UserError(f"tokenizer.path ({self.path!r}) must be {where}: {one_line(error)}") from error
        if not whole.is_fast:
            raise UserError(f"tokenizer.path ({self.path!r}) has no tokenizer.json, which is needed: convert it")
        special = whole.special_tokens_map
        self._take(
            {
                "json": whole.backend_tokenizer.to_str(),
                "eos": special.get("eos_token") or special.get("sep_token"),
                "mask": special.get("mask_token"),
            }
        )

    def _take(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer as Fast

        self._state = state
        self._tokenizer = fast = Fast.from_str(state["json"])
        fast.no_truncation()
        fast.no_padding()
        self.vocab_size = 1 + max(fast.get_vocab(with_added_tokens=True).values())
        frame = fast.encode("").ids  # what the tokenizer itself puts around a text: [BOS], [CLS] [SEP], …
        self.end_id = self._end(frame, state["eos"])
        own_start = frame[0] if frame and (len(frame) > 1 or frame[0] != self.end_id) else self.end_id
        self.start_id = own_start if self.start_token is None else self._id("start_token", self.start_token)
        self.mask_token = state["mask"]
        self.mask_id = None if self.mask_token is None else fast.token_to_id(self.mask_token)
        self.special_ids = frozenset(i for i, token in fast.get_added_tokens_decoder().items() if token.special)

    def _end(self, frame: list[int], eos: str | None) -> int:
        if self.end_token is not None:
            return self._id("end_token", self.end_token)
        if len(frame) > 1:
            return int(frame[-1])
        if eos is None:
            raise UserError(
                f"the tokenizer in {self.path!r} has no token that ends a text: "
                "name one with --data.tokenizer.end_token=TOKEN"
            )
        return self._id("end_token", eos)

    def _id(self, option: str, token: str) -> int:
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise UserError(f"tokenizer.{option} ({token!r}) must be a token of {self.path!r}, which has none such")
        return number

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The tokens of each text, on all cores."""
        arrays: list[NDArray[np.int32]] = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            some = self._tokenizer.encode_batch_fast(
                list(texts[first : first + TEXTS_AT_ONCE]), add_special_tokens=False
            )
            arrays += [np.array(encoding.ids, np.int32) for encoding in some]
        return arrays

    def encode_with_spans(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text and their characters, on all cores."""
        found: list[Tokens] = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            some = self._tokenizer.encode_batch(list(texts[first : first + TEXTS_AT_ONCE]), add_special_tokens=False)
            found += [Tokens(np.array(e.ids, np.int32), np.array(e.offsets, np.int32).reshape(-1, 2)) for e in some]
        return found

    def frame_of(self, num_texts: int) -> Frame:
        """The tokenizer's own, learned from what it puts around two texts; else a start and ends."""
        if self.start_token is not None or self.end_token is not None:
            return super().frame_of(num_texts)
        runs: list[list[tuple[int, int]]] = [[] for _ in range(num_texts + 1)]
        types = [0] * num_texts
        probe = self._tokenizer.encode(*[self._some_text] * num_texts)
        text = 0
        for token, kind, source in zip(probe.ids, probe.type_ids, probe.sequence_ids, strict=True):
            if source is None:
                runs[text].append((token, kind))
            else:
                text, types[source] = source + 1, kind
        return Frame(tuple(runs), tuple(types)) if any(runs) else super().frame_of(num_texts)

    @cached_property
    def _some_text(self) -> str:
        """Any text that has a token."""
        texts = ("a", "A", "0", *self._tokenizer.get_vocab(with_added_tokens=False))
        found: str = next(text for text in texts if self._tokenizer.encode(text, add_special_tokens=False).ids)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special tokens are left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def encode_masked(self, text: str) -> NDArray[np.int32]:
        """The tokens of the whole text, as the tokenizer knows its mask, to which the space before it may belong."""
        return self.encode([text])[0]

    def decode_masked(self, ids: Sequence[int]) -> str:
        """The whole text, in which only the mask is written of the special tokens."""
        shown = [i for i in ids if i == self.mask_id or i not in self.special_ids]
        text: str = self._tokenizer.decode(shown, skip_special_tokens=False)
        return text

    def fingerprint(self) -> str:
        """Of everything in tokenizer.json."""
        return hashlib.sha256(self._state["json"].encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """The content of tokenizer.json, and what it is called."""
        return {"path": self.path, **self._state} if self._tokenizer is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it from a checkpoint, unless path says another one."""
        if state.get("path") == self.path:
            self._take({key: value for key, value in state.items() if key != "path"})
