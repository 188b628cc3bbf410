"""Messages of other libraries that tell a user nothing they can act on."""

import logging
import warnings

CHATTER = ("💡 Tip", "`weights_only` was not set", "TPU available", "Loading `train_dataloader` to estimate")


class _Chatter(logging.Filter):
    """Drops advertisements and notes on Lightning's own inner calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(CHATTER)


def quieten() -> None:
    """Silences advertisements, and deprecations within libraries that call one another."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logger = logging.getLogger(name)
        if not any(isinstance(old, _Chatter) for old in logger.filters):
            logger.addFilter(_Chatter())
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
