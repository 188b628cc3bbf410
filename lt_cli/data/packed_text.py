"""Text for language models: documents of any source, packed into blocks of tokens without padding."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from lt_cli.data.base import Batch, DataModule, run_seed, write_rows
from lt_cli.data.blocks import Blocks, CausalBlocks, MaskedBlocks, Masking
from lt_cli.data.corpus import Corpus, cut, encode_once, join
from lt_cli.data.held_out import HeldOut, check_fractions, fractions_of
from lt_cli.data.prompts import Prompts, prompt_rows
from lt_cli.data.rows import Row
from lt_cli.data.text_sources import TextSource, TextSplit
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.data.windows import Place, Reader, Windows
from lt_cli.errors import UserError

PROMPT_LEN = 32
"""Tokens of a document that predict continues where there are no prompts; at most half a block."""
FRAME = 3
"""Tokens that a block of streamed text may need besides its own: a document's first, its last, the one to predict."""
SHOWN = 200
"""Characters of a row that the first page shows."""
WANTED: dict[str, list[TextSplit]] = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}
"""Splits by Lightning's stage."""


class PackedText(DataModule):
    """Documents as one stream of tokens for each split, cut into blocks; tokenised once, on all cores.

    Args:
        source: Where the documents come from.
        tokenizer: Text to tokens; says the vocabulary.
        max_seq_len: Tokens of a block.
        tokens_per_epoch: Tokens that are read, held and shuffled at a time, for text that fits neither memory nor disk:
            an epoch of training; held-out text comes from the first documents. null reads all at once.
        separate_documents: Whether the documents of a block are kept apart: positions begin anew, and none sees
            another.
        masking: For masked language modelling, which tokens are to be found; null for the next token.
        val_fraction: Part of the training tokens (of the first epoch, where they are read an epoch at a time) kept for
            validation, from documents that split_seed chooses, the last one cut; null for 0.1, or none where the source
            has validation text.
        test_fraction: The same for test; null for none.
        split_seed: Seed of that choice; the run's own seed does not change it.
        prompts: What predict continues, or fills the masks of: texts, or a file of them: .txt with one on each line,
            or .jsonl, .csv, .tsv or .parquet, whose other columns are kept; null for the first tokens of the test
            documents, or of validation where there are none.
        prompt_column: Column of the prompts' file.
        batch_size: Blocks per batch and process.
        num_workers: Processes that fetch batches; 0 is fastest for tokens in memory.

    Raises:
        UserError: If a size is out of range, or a split is missing or too short for one block.
    """

    has_own_format = True

    def __init__(
        self,
        *,
        source: TextSource,
        tokenizer: Tokenizer,
        max_seq_len: int = 256,
        tokens_per_epoch: int | None = None,
        separate_documents: bool = False,
        masking: Masking | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        prompts: list[str] | str | None = None,
        prompt_column: str = "prompt",
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        """Reads nothing."""
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        if max_seq_len < 1:
            raise UserError(f"max_seq_len ({max_seq_len}) must be at least 1")
        check_fractions(val_fraction, test_fraction, split_seed)
        if tokens_per_epoch is not None and num_workers:
            raise UserError(
                f"num_workers ({num_workers}) must be 0 with tokens_per_epoch: each would read all the text"
            )
        if tokens_per_epoch is not None and tokens_per_epoch < max_seq_len + FRAME:
            raise UserError(
                f"tokens_per_epoch ({tokens_per_epoch}) must be at least {max_seq_len + FRAME}: max_seq_len "
                f"({max_seq_len}) and what begins and ends a document"
            )
        if separate_documents and masking is not None:
            raise UserError("separate_documents (true) has no meaning with masking: set one of them only")
        self.source, self.tokenizer = source, tokenizer
        self.max_seq_len: int = max_seq_len
        self.tokens_per_epoch = tokens_per_epoch
        self.separate_documents, self.masking = separate_documents, masking
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.prompts, self.prompt_column = prompts, prompt_column
        self.tokens_per_byte: dict[str, float] = {}
        self._corpora: dict[TextSplit, Corpus] = {}
        self._described: dict[str, str] = {}
        self._origin: Place = (0, 0)
        self._known: tuple[int, Place] | None = None

    @property
    def vocab_size(self) -> int | None:  # type: ignore[override]
        """Tokens of the tokenizer, once it is there."""
        return getattr(self.tokenizer, "vocab_size", None)

    @property
    def start_id(self) -> int:
        """The token that begins a document."""
        return self.tokenizer.start_id

    @property
    def end_id(self) -> int:
        """The token that ends a document."""
        return self.tokenizer.end_id

    @property
    def mask_id(self) -> int | None:
        """The token to fill in, where rows are masked."""
        return None if self.masking is None else self.tokenizer.mask_id

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, with masks as the tokenizer writes them."""
        return self.tokenizer.decode_masked(ids)

    def shows(self, text: str) -> bool:
        """Whether a text has any token that ``decode`` writes."""
        return not self.tokenizer.special_ids.issuperset(self.tokenizer.encode([text])[0].tolist())

    def prepare_data(self) -> None:
        """Downloads on one process, which also tokenises where others wait for it; they read what it kept."""
        self.tokenizer.load()
        trainer = self.trainer
        stage = None if trainer is None else trainer.state.fn
        if stage == "predict" and self.prompts is not None:
            return
        self.source.prepare()
        if trainer is not None and trainer.world_size > 1 and self.tokens_per_epoch is None:
            fractions = self._fractions()
            for name in dict.fromkeys("train" if name in fractions else name for name in WANTED.get(stage or "", [])):
                encode_once(self.source, name, self.tokenizer)

    def setup(self, stage: str) -> None:
        """Tokenises the splits that the stage needs and does not have yet."""
        self.tokenizer.load()
        if self.masking is not None and self.tokenizer.mask_id is None:
            raise UserError("data.masking needs a tokenizer with a mask token, and this one has none: set it to null")
        if self.source.streamed and self.tokens_per_epoch is None:
            raise UserError("a source that is streamed is never read whole: set --data.tokens_per_epoch=10000000")
        for name in WANTED.get(stage, []):
            if name not in self.splits:
                num_tokens = self.tokens_per_epoch if name == "train" else None
                self.splits[name] = self._blocks(name) if num_tokens is None else self._windows(num_tokens)
        if stage == "predict":
            self.splits["predict"] = self._prompts()
        self._corpora.pop("train", None)  # its tokens have become blocks, or nobody wants them

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, so that a checkpoint needs none of its files, and how far a text was read that is streamed."""
        state: dict[str, Any] = {"tokenizer": self.tokenizer.state_dict()}
        windows = self.splits.get("train")
        if isinstance(windows, Windows):
            state |= {"epoch": windows.epoch, "place": list(windows.place)}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the tokenizer from the checkpoint, and goes on where the text was."""
        self.tokenizer.load_state_dict(state_dict["tokenizer"])
        if "place" in state_dict:
            number, token = state_dict["place"]
            self._known = state_dict["epoch"], (number, token)

    def describe(self) -> list[str]:
        """Documents, tokens and blocks of each split; how much of the vocabulary training uses."""
        return [self._described[name] for name in self.splits if name in self._described]

    def preview(self, batch: Batch, directory: Path) -> list[str]:
        """The beginning of the first row, as text."""
        return [f"a row begins: {self.decode(batch['input_ids'][0].tolist())[:SHOWN]!r}"]

    def place(self, index: int) -> str:
        """What messages call a prompt."""
        prompts = self.splits["predict"]
        assert isinstance(prompts, Prompts)
        return prompts.rows[index].place

    def write_predictions(
        self, columns: dict[str, list[Any]], directory: Path, format: Literal["csv", "jsonl"]
    ) -> list[Path]:
        """The prompts' rows with what was predicted, always as .jsonl, whose texts may have many lines."""
        prompts = self.splits["predict"]
        assert isinstance(prompts, Prompts)
        rows = [prompts.rows[i].fields for i in columns["index"]]
        columns = {name: values for name, values in columns.items() if name != "index"}
        if taken := sorted(columns.keys() & set().union(*rows)):
            rank_zero_warn(f"the prompts' column {taken[0]} is replaced by the prediction of the same name")
        names = dict.fromkeys(name for row in rows for name in row)
        kept = {name: [row.get(name) for row in rows] for name in names}
        return [write_rows({**kept, **columns}, directory / "predictions.jsonl")]

    def _blocks(self, name: TextSplit) -> Blocks:
        corpus = self._corpus(name)
        try:
            blocks = self._packed(name, corpus)
        except UserError as error:
            more = f", or a larger --data.{name}_fraction" if name in self._fractions() else ""
            raise UserError(f"{name}: {error}{more}") from error
        self._described[name] = f"{name}: {len(blocks):,} blocks of {self.max_seq_len} tokens, {_summary(corpus)}"
        if name == "train":
            used = np.count_nonzero(np.bincount(corpus.ids, minlength=1))
            self._described[name] += f"; {used:,} of {self.vocab_size:,} tokens occur"
        return blocks

    def _packed(self, name: TextSplit, corpus: Corpus) -> Blocks:
        """The blocks of documents; in training, tokens that two blocks share are labels in both."""
        stream, length, once = join(corpus, self.tokenizer), self.max_seq_len, name != "train"
        blocks: Blocks
        if self.masking is None:
            blocks = CausalBlocks(stream, length, once=once, separate=self.separate_documents)
        else:
            masking, tokenizer = self.masking, self.tokenizer
            blocks = MaskedBlocks(stream, length, once=once, masking=masking, tokenizer=tokenizer, seed=run_seed())
        self.tokens_per_byte[name] = blocks.num_targets / int(corpus.num_bytes.sum())
        return blocks

    def _corpus(self, name: TextSplit) -> Corpus:
        """The tokens of a split; those that the source has not are parts of its training text."""
        if name not in self._corpora:
            fractions = self._fractions()
            if name == "train" or name in fractions:
                self._share_out(fractions)
            else:
                self._corpora[name] = self._encoded(name)
        return self._corpora[name]

    def _fractions(self) -> dict[HeldOut, float]:
        """Of the training text, for the splits that the source has not."""

        def has(split: TextSplit) -> bool:
            return self.source.documents(split) is not None

        return fractions_of(self.val_fraction, self.test_fraction, has, "text")

    def _share_out(self, fractions: dict[HeldOut, float]) -> None:
        if self.tokens_per_epoch is None:
            self._corpora |= cut(self._encoded("train"), fractions, self.split_seed, self.tokenizer.decode)
        else:
            reader = Reader(self.source, self.tokenizer)
            self._corpora |= {name: reader.take(round(f * self.tokens_per_epoch)) for name, f in fractions.items()}
            self._origin = reader.place
            if reader.passes:
                raise UserError(
                    f"val_fraction and test_fraction of tokens_per_epoch ({self.tokens_per_epoch}) must leave text to "
                    "train on, and there is none: set --data.tokens_per_epoch=null"
                )

    def _reader(self, place: Place) -> Reader:
        return Reader(self.source, self.tokenizer, place, self._origin)

    def _windows(self, num_tokens: int) -> Windows:
        """The training text behind what is held out, an epoch at a time."""
        if fractions := self._fractions():
            self._share_out(fractions)
        make = partial(self._packed, "train")
        windows = Windows(self._reader, num_tokens, self.max_seq_len, make, self._origin, self._known)
        self._described["train"] = (
            f"train: {len(windows):,} blocks of {self.max_seq_len} tokens in each epoch, read as they are needed"
        )
        return windows

    def _encoded(self, name: TextSplit) -> Corpus:
        corpus = encode_once(self.source, name, self.tokenizer)
        if corpus is None:
            raise UserError(f"there is no {name} text: give the source some, or set --data.{name}_fraction=0.1")
        if not len(corpus.lengths):
            raise UserError(f"the {name} text has no document with any text in it")
        return corpus

    def _prompts(self) -> Prompts:
        if self.prompts is None:
            return self._own_prompts()
        rows = prompt_rows(self.prompts, self.prompt_column)
        tokens = [self._begun(row.fields[self.prompt_column]) for row in rows]
        if self.masking is not None:
            for row, ids in zip(rows, tokens, strict=True):
                if self.tokenizer.mask_id not in ids:
                    raise UserError(
                        f"{row.place} has nothing to fill in: write {self.tokenizer.mask_token} in its place"
                    )
        return Prompts(tokens, rows, self.tokenizer.start_id)

    def _begun(self, text: str) -> NDArray[np.int32]:
        """The tokens of a prompt: a document's beginning, or a whole one with masks to fill in."""
        start, end = (np.array([i], np.int32) for i in (self.tokenizer.start_id, self.tokenizer.end_id))
        if self.masking is None:
            return np.concatenate([start, *self.tokenizer.encode([text])])
        return np.concatenate([start, self.tokenizer.encode_masked(text), end])

    def _own_prompts(self) -> Prompts:
        """The first tokens of held-out documents."""
        has_test = self.test_fraction is not None or self.source.documents("test") is not None
        corpus = self._corpus("test" if has_test else "val")
        stream = join(corpus, self.tokenizer)
        length = max(2, min(PROMPT_LEN, self.max_seq_len // 2))  # what begins a document, and a token of it
        ends = stream.starts + 1 + np.minimum(corpus.lengths, length - 1)
        tokens = [stream.ids[i:j].astype(np.int32) for i, j in zip(stream.starts, ends, strict=True)]
        if self.masking is not None:
            masking = replace(self.masking, random=0, keep=0)  # or there would be prompts with nothing to fill in
            for row, ids in enumerate(tokens):
                tokens[row] = masking.apply(ids, np.ones(len(ids), bool), self.tokenizer, [run_seed(), row])[0]
        texts = (self.decode(ids.tolist()) for ids in tokens)
        rows = [Row({self.prompt_column: text}, f"document {i}") for i, text in enumerate(texts, 1)]
        return Prompts(tokens, rows, self.tokenizer.start_id)


def _summary(corpus: Corpus) -> str:
    """How many documents, and how long they are."""
    shortest, middle, longest = np.quantile(corpus.lengths, [0, 0.5, 1]).astype(int).tolist()
    number = len(corpus.lengths)
    spread = f"{number:,} documents of {shortest:,} to {longest:,} (median {middle:,})" if number > 1 else "1 document"
    empty = f"; {corpus.num_empty:,} more have no text and are left out" if corpus.num_empty else ""
    return f"{corpus.lengths.sum():,} in {spread}{empty}"
