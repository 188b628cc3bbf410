"""Datasets of the Hugging Face hub, or of a local directory: their splits, loaded once, with mistakes in one line."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lt_cli.errors import UserError, one_line

USUAL_NAMES = {"val": "validation", "test": "test"}
"""What a split is called on the hub where nobody says."""


class HubDataset:
    """One dataset, read by ``datasets``.

    Args:
        path: Name on the hub, or a directory, which may be one of ``save_to_disk``.
        config_name: Configuration of the dataset, where it has several.
        splits: Names of the splits there by train, val, test and so on; None for the usual ones where they exist.
        streaming: Whether rows are read over the network as they are needed, and never stored.
    """

    def __init__(
        self, path: str, *, config_name: str | None, splits: Mapping[str, str | None], streaming: bool = False
    ) -> None:
        """Reads nothing.

        Raises:
            UserError: If what is held out is named as a part of what is trained on.
        """
        for split in ("val", "test"):
            if (name := splits.get(split)) is not None and name.startswith(f"{splits['train']}["):
                raise UserError(
                    f"{split}_split ({name}) is a part of train_split ({splits['train']}), so that it would be trained "
                    f"on: set train_split to the other part, such as {splits['train']}[:90%]"
                )
        self.path, self.config_name, self.splits, self.streaming = path, config_name, splits, streaming
        self._datasets: dict[str, Any] = {}

    def split_name(self, split: str) -> str | None:
        """The split's name in the dataset, or None where it has no such split."""
        if (given := self.splits.get(split)) is not None:
            return given
        usual = USUAL_NAMES.get(split)
        return usual if usual in self._known_splits else None

    def prepare(self) -> None:
        """Downloads all splits, by loading one of them, which need not be that of training."""
        if not self.streaming:
            self.rows(self._known_splits[0])

    def rows(self, name: str) -> Any:
        """A split by its name there, as ``datasets`` has it."""
        if name not in self._datasets:
            self._datasets[name] = self._loading(lambda: self._load(name), name)
        return self._datasets[name]

    @cached_property
    def _saved(self) -> dict[str, Any] | None:
        """The splits that ``save_to_disk`` wrote; None where the path is anything else."""
        import datasets

        if not any((Path(self.path) / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return None
        saved = self._loading(lambda: datasets.load_from_disk(self.path))
        return dict(saved) if isinstance(saved, dict) else {"train": saved}

    @cached_property
    def _known_splits(self) -> list[str]:
        import datasets

        if self._saved is not None:
            return list(self._saved)
        return self._loading(lambda: datasets.get_dataset_split_names(self.path, self.config_name))  # type: ignore[no-any-return]

    def _load(self, name: str) -> Any:
        import datasets

        if self._saved is None:
            return datasets.load_dataset(self.path, self.config_name, split=name, streaming=self.streaming)
        sizes = {name: len(rows) for name, rows in self._saved.items()}
        parts = datasets.ReadInstruction.from_spec(name).to_absolute(sizes)
        found = datasets.concatenate_datasets([self._saved[p.splitname].select(range(p.from_, p.to)) for p in parts])
        return found.to_iterable_dataset() if self.streaming else found

    def _loading(self, load: Callable[[], Any], name: str = "") -> Any:
        import datasets

        try:
            return load()
        except (OSError, ValueError, IndexError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            named = f"path ({self.path}), config_name ({self.config_name})" + (name and f", split ({name})")
            cure = "set path to a name on the hub within reach or a directory, and the splits to those it has"
            raise UserError(f"{named} could not be loaded: {one_line(error)}\n{cure}") from error
