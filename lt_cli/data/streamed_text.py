"""Text for language models that outgrows memory and disk: read while a run trains, by every process its own part."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer

from lt_cli.data.base import Loader, SplitName, run_seed
from lt_cli.data.blocks import Masking
from lt_cli.data.corpus import Corpus, encode
from lt_cli.data.held_out import HeldOut
from lt_cli.data.hub_datasets import HubDataset
from lt_cli.data.packed_text import FRAME, PackedText
from lt_cli.data.stream_loader import StreamLoader
from lt_cli.data.streams import TEXTS_AHEAD, Packing, Place, Readers, next_of, texts_of
from lt_cli.data.text_sources import TextSource, TextSplit
from lt_cli.data.tokenizers import Tokenizer
from lt_cli.errors import UserError

DataFiles = str | list[str] | dict[str, str | list[str]]
ENDLESS = 2**40
"""Batches of an epoch where no trainer says how many it wants."""


class StreamedFiles(HubDataset):
    """Splits of a dataset of the hub, or of files of one kind, as streams.

    Args:
        path: Name on the hub, a directory, or the kind of the files.
        config_name: Configuration of the dataset, where it has several.
        data_files: Files, or globs of them, by split where there are several; None for all that path has.
        splits: Names of the splits there; None for the usual ones where they exist.
    """

    def __init__(
        self, path: str, *, config_name: str | None, data_files: DataFiles | None, splits: dict[str, str | None]
    ) -> None:
        """Reads nothing."""
        super().__init__(path, config_name=config_name, splits=splits, streaming=True)
        for split in ("val", "test"):
            if splits[split] == splits["train"]:
                raise UserError(
                    f"{split}_split ({splits[split]}) is what is trained on: set --data.{split}_split=null, which "
                    "keeps documents of it from training"
                )
        self.data_files = data_files

    @cached_property
    def _known_splits(self) -> list[str]:
        if self.data_files is None:
            return super()._known_splits
        return list(self.data_files) if isinstance(self.data_files, dict) else ["train"]

    def _load(self, name: str) -> Any:
        if self.data_files is None:
            return super()._load(name)
        import datasets

        try:
            return datasets.load_dataset(
                self.path, self.config_name, data_files=self.data_files, split=name, streaming=True
            )
        except StopIteration as error:  # which a pattern of no file ends in, and an empty file
            raise ValueError(f"data_files ({self.data_files}) names no file, or first an empty one") from error


class StreamedDocuments(TextSource):
    """So many documents of a stream as memory holds: for validation, for test, and the first that are trained on.

    Args:
        files: The splits.
        column: Of the text.
        numbers: Documents of ``val`` and ``test``, at most.
    """

    def __init__(self, files: StreamedFiles, column: str, numbers: dict[HeldOut, int]) -> None:
        """Reads nothing."""
        self.files, self.column, self.numbers = files, column, numbers

    @property
    def train(self) -> Any:
        """The training text as ``datasets`` has it, with the column alone."""
        return self._stream("train").select_columns([self.column])

    @cached_property
    def held_out(self) -> dict[HeldOut, list[str]]:
        """The first documents with text of the training text, for the splits that have none of their own."""
        order: tuple[HeldOut, ...] = ("test", "val")
        wanted = {split: self.numbers[split] for split in order if self.files.split_name(split) is None}
        texts = list(islice(self._texts("train"), sum(wanted.values())))
        if len(texts) < sum(wanted.values()):
            options = " and ".join(f"{split}_documents ({number})" for split, number in wanted.items())
            raise UserError(
                f"{options} are kept of the train text, which has only {len(texts):,} documents: "
                f"set --data.{'val' if 'val' in wanted else 'test'}_documents lower"
            )
        begin = wanted.get("test", 0)
        parts: dict[HeldOut, list[str]] = {"test": texts[:begin], "val": texts[begin:]}
        return {split: parts[split] for split in wanted}

    def documents(self, split: TextSplit) -> Iterable[str] | None:
        """The first documents of a split; of ``train``, all of them, without what is held out."""
        if split == "train":
            held_out = {text for texts in self.held_out.values() for text in texts}
            return (text for text in self._texts("train") if text not in held_out)
        if split in self.held_out:
            return self.held_out[split]
        return islice(self._texts(split), self.numbers[split])

    def _texts(self, split: TextSplit) -> Iterator[str]:
        """Those that have any, in the order of the files."""
        rows = iter(self._stream(split))
        while (row := next_of(rows, split)) is not None:
            (text,) = texts_of([row[self.column]], self.column)
            if text.strip():
                yield text

    def _stream(self, split: TextSplit) -> Any:
        """A split that has the column."""
        name = self.files.split_name(split)
        assert name is not None
        found = self.files.rows(name)
        columns = found.column_names or list(next_of(iter(found), split) or {})  # a stream may not know them
        if self.column not in columns:
            raise UserError(f"text_column ({self.column}) must be a column of {self.files.path}: {', '.join(columns)}")
        return found


class StreamedText(PackedText):
    """Text that outgrows memory and disk, read by ``datasets`` while a run trains, and packed into blocks.

    Each document goes to one of the processes' readers (workers, or the process itself), once in a pass; the next pass
    then begins, in another order. So a run has an end only where --trainer.max_steps says it, and as many steps are an
    epoch. A resumed run goes on at the token where it stood; with other processes or workers, what is left of the pass
    is shared out anew. Validation and test are so many documents, in memory.

    Args:
        path: Name on the hub, a directory, or the kind of data_files: json, parquet, csv, or text (each line is a
            document).
        tokenizer: Text to tokens; says the vocabulary.
        config_name: Configuration of the dataset, where it has several.
        data_files: Files, or globs of them, that are read in place of all that path has; by split where there are
            several, as in {train: a/*.jsonl, validation: b.jsonl}.
        text_column: Column of the text.
        train_split: Split to train on.
        val_split: Split to validate on; null for ``validation`` where there is one, else the first documents of the
            training text, which are then kept from training, as are others of the same text.
        test_split: The same for test, which comes before validation in the training text.
        val_documents: Documents to validate on, at most.
        test_documents: Documents to test on, at most.
        shuffle_buffer: Documents that a reader holds and shuffles at a time, beside the order of the files, which
            changes from pass to pass; 0 leaves all in the files' order.
        max_seq_len: Tokens of a block.
        separate_documents: Whether the documents of a block are kept apart: positions begin anew, and none sees
            another.
        masking: For masked language modelling, which tokens are to be found; null for the next token.
        prompts: What predict continues, or fills the masks of: texts, or a file of them: .txt with one on each line,
            or .jsonl, .csv, .tsv or .parquet, whose other columns are kept; null for the first tokens of the test
            documents.
        prompt_column: Column of the prompts' file.
        batch_size: Blocks per batch and process.
        num_workers: Processes that read, tokenise and pack; 0 does it in the training process, on all its cores.

    Raises:
        UserError: If a size is out of range, or a split is missing or too short for one block.
    """

    def __init__(
        self,
        *,
        path: str,
        tokenizer: Tokenizer,
        config_name: str | None = None,
        data_files: DataFiles | None = None,
        text_column: str = "text",
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_documents: int = 1_000,
        test_documents: int = 1_000,
        shuffle_buffer: int = 1_000,
        max_seq_len: int = 256,
        separate_documents: bool = False,
        masking: Masking | None = None,
        prompts: list[str] | str | None = None,
        prompt_column: str = "prompt",
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        """Reads nothing."""
        numbers: dict[HeldOut, int] = {"val": val_documents, "test": test_documents}
        for name, number in numbers.items():
            if number < 1:
                raise UserError(f"{name}_documents ({number}) must be at least 1")
        if shuffle_buffer < 0:
            raise UserError(f"shuffle_buffer ({shuffle_buffer}) must not be negative; 0 shuffles nothing")
        splits: dict[str, str | None] = {"train": train_split, "val": val_split, "test": test_split}
        files = StreamedFiles(path, config_name=config_name, data_files=data_files, splits=splits)
        self.documents = StreamedDocuments(files, text_column, numbers)
        self.shuffle_buffer = shuffle_buffer
        super().__init__(
            source=self.documents,
            tokenizer=tokenizer,
            max_seq_len=max_seq_len,
            separate_documents=separate_documents,
            masking=masking,
            prompts=prompts,
            prompt_column=prompt_column,
            batch_size=batch_size,
            num_workers=num_workers,
        )

    def prepare_data(self) -> None:
        """Fetches the tokenizer on one process; of the text, nothing is stored."""
        self.tokenizer.load()

    def setup(self, stage: str) -> None:
        """Tokenises what validation and test need; of the training text, its beginning, which stands for all of it."""
        if stage == "fit" and "train" not in self.splits:
            self.tokenizer.load()
            self._corpora["train"] = self._beginning()
        super().setup(stage)

    def _beginning(self) -> Corpus:
        """The first documents that are trained on, of which a row can be made."""
        documents = iter(self.documents.documents("train") or ())
        texts = list(islice(documents, TEXTS_AHEAD))
        corpus = encode(texts, self.tokenizer)
        while len(corpus.ids) < self.max_seq_len + FRAME and (more := list(islice(documents, len(texts)))):
            texts += more
            corpus = encode(texts, self.tokenizer)
        if not texts:
            kept = sum(map(len, self.documents.held_out.values()))
            raise UserError(
                f"the train text has nothing to train on beside the {kept:,} documents that are kept for validation "
                "and test: set --data.val_documents lower"
            )
        return corpus

    def describe(self) -> list[str]:
        """What PackedText says, of training only for its beginning; how the text is shared out and shuffled."""
        lines = super().describe()
        if "train" not in self.splits:
            return lines
        readers = self._readers(self.trainer)
        shards = readers.dataset.num_shards
        order = f"shuffled {self.shuffle_buffer:,} at a time" if self.shuffle_buffer else "in the files' order"
        line = f"train: a stream of documents, {order}; what follows is its beginning"
        return [line, *_sharing(shards, readers.shares), *lines]

    def loader(self, name: SplitName) -> Loader:
        """Of training, as many batches as the trainer asks for."""
        if name != "train" or name not in self.splits:
            return super().loader(name)
        trainer = self.trainer
        files = self.documents.files
        readers = self._readers(trainer)

        def gather(places: list[Place]) -> list[list[Place]]:
            if trainer is None or trainer.world_size == 1:
                return [places]
            return [trainer.strategy.broadcast(places, src=rank) for rank in range(trainer.world_size)]

        return StreamLoader(
            readers,
            self.splits[name],
            num_batches=ENDLESS if trainer is None else _batches_of(trainer),
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            gather=gather,
            text=[files.path, files.config_name, files.data_files, files.splits["train"], readers.dataset.num_shards],
        )

    def _readers(self, trainer: Trainer | None) -> Readers:
        packing = Packing(
            self.tokenizer,
            max_seq_len=self.max_seq_len,
            batch_size=self.batch_size,
            separate=self.separate_documents,
            masking=self.masking,
            seed=run_seed(),
        )
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return Readers(
            self.documents.train,
            self.documents.column,
            held_out=frozenset(text for texts in self.documents.held_out.values() for text in texts),
            packing=packing,
            shuffle_buffer=self.shuffle_buffer,
            seed=run_seed(),
            num_workers=self.num_workers,
            rank=rank,
            world_size=world_size,
        )


def _batches_of(trainer: Trainer) -> int:
    """Batches of an epoch: all of the run's, or as many as it is limited to."""
    for option in ("overfit_batches", "reload_dataloaders_every_n_epochs"):
        if value := getattr(trainer, option, 0):
            raise UserError(
                f"--trainer.{option} ({value}) has no meaning for a stream, which never begins anew: set it to 0"
            )
    if trainer.max_steps >= 0:
        return trainer.max_steps * trainer.accumulate_grad_batches
    if isinstance(trainer.limit_train_batches, int):
        return trainer.limit_train_batches
    raise UserError(
        "the text is a stream, which has no end, and the run must have one: set --trainer.max_steps=10000, or "
        "--trainer.limit_train_batches=1000, which are an epoch then"
    )


def _sharing(shards: int, readers: int) -> list[str]:
    """What is worth knowing of how files, or other shards, are shared out."""
    each, rest = divmod(shards, readers)
    counts = f"shards: {shards:,}, readers (processes and workers): {readers:,}"
    if not each:
        return [f"{counts}; each reads all shards and takes its part of the documents"]
    if rest:
        return [f"{counts}; who has {each:,} and not {each + 1:,} begins the next pass earlier"]
    return [counts]
