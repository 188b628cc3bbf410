"""How a task over labels reads its rows: the one feature that its head sees of each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lt_cli.backbones.base import Backbone, PooledBackbone
from lt_cli.data.base import Batch, DataModule, InputData, PictureInputs
from lt_cli.data.labels import LabeledData
from lt_cli.errors import UserError, one_line
from lt_cli.tasks.base import evaluating
from lt_cli.tasks.pooling import Pooling, pooled


class Reader(ABC):
    """What a head is given of a row."""

    @abstractmethod
    def misfit(self, backbone: Backbone, data: DataModule) -> str | None:
        """What must be otherwise for the data to be read, or None."""

    def meet(self, backbone: Backbone, data: DataModule) -> None:  # noqa: B027  # most have nothing to agree on
        """Lets backbone and data agree on what the user did not say; before each of fit, validate, test and predict."""

    def prepare(self, backbone: Backbone, data: DataModule) -> None:  # noqa: B027  # most know their width
        """Makes sure that the backbone knows the width of its features; once."""

    def check_training(self, backbone: Backbone, data: DataModule) -> None:  # noqa: B027  # most train on any batch
        """Refuses batches that the backbone cannot be trained on."""

    @abstractmethod
    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """A feature of each row, (B, D), D = embed_dim of the backbone."""


class TextReader(Reader):
    """Reads texts, of whose tokens' features one is made.

    Args:
        pooling: How.
    """

    def __init__(self, pooling: Pooling) -> None:
        """Keeps it."""
        self.pooling: Pooling = pooling

    def misfit(self, backbone: Backbone, data: DataModule) -> str | None:
        """Texts with labels."""
        if isinstance(data, LabeledData) and not isinstance(data, InputData):
            return None
        return (
            f"needs data of texts with labels, such as lt_cli.data.labeled_text.LabeledText, not {type(data).__name__}"
        )

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The pooled features of each text's tokens."""
        mask = batch["attention_mask"]
        features = backbone(batch["input_ids"], attention_mask=mask, token_type_ids=batch["token_type_ids"])
        return pooled(features, mask, self.pooling)


class InputReader(Reader):
    """Reads rows of numbers, be they of tables or pictures, with a backbone that makes a feature of each."""

    def misfit(self, backbone: Backbone, data: DataModule) -> str | None:
        """Inputs with labels, of a size that somebody says."""
        if not (isinstance(data, LabeledData) and isinstance(data, InputData)):
            wanted = "lt_cli.data.labeled_images.LabeledImages or lt_cli.data.labeled_table.LabeledTable"
            return f"needs data of pictures or tables with labels, such as {wanted}, not {type(data).__name__}"
        if data.input_shape is None:
            return f"needs pictures of one size, and {type(backbone).__name__} says none: add --data.size=[32,32]"
        return None

    def meet(self, backbone: Backbone, data: DataModule) -> None:
        """Tells the data how the backbone wants pictures."""
        wanted = backbone.preprocessing if isinstance(backbone, PooledBackbone) else None
        if wanted is not None and isinstance(data, PictureInputs):
            data.suit(**asdict(wanted))

    @torch.no_grad()
    def prepare(self, backbone: Backbone, data: DataModule) -> None:
        """Feeds the backbone a row of zeros, to learn the width of its features, or check what it says of it.

        Raises:
            UserError: If it does not take such a row, or makes no feature of it.
        """
        assert isinstance(data, InputData)
        assert data.input_shape is not None
        name, shape = type(backbone).__name__, data.input_shape
        weight = next(backbone.parameters(), torch.empty(0))
        dtype = weight.dtype if data.input_dtype.is_floating_point else data.input_dtype
        # on the backbone's own device, as heads are made under the default device of a trainer's strategy
        row = torch.zeros(1, *shape, dtype=dtype, device=weight.device)
        with evaluating(backbone):
            try:
                features = backbone(row)
            except UserError:
                raise
            except Exception as error:  # of a module of the user's, which may raise anything
                raise UserError(f"{name} does not take the data's rows of shape {shape}: {one_line(error)}") from error
        if not (isinstance(features, Tensor) and features.ndim == 2 and len(features) == 1):
            made = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"{name} must make a feature (1, embed_dim) of a row, not {made}: pool and flatten it")
        width = features.shape[1]
        if getattr(backbone, "embed_dim", width) != width:
            raise UserError(f"embed_dim ({backbone.embed_dim}) of {name} must be the width of its features ({width})")
        backbone.embed_dim = width

    def check_training(self, backbone: Backbone, data: DataModule) -> None:
        """Refuses batches of one row where a norm would never see more than one value of a channel."""
        norms = (part for part in backbone.modules() if isinstance(part, nn.BatchNorm1d))
        if data.batch_size == 1 and any(weight.requires_grad for norm in norms for weight in norm.parameters()):
            raise UserError(
                f"batch_size (1) must be at least 2, as the BatchNorm of {type(backbone).__name__} learns nothing of a "
                "row alone: add --data.batch_size=2"
            )

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """The feature of each row."""
        inputs = batch["inputs"]
        with _alone(backbone) if len(inputs) == 1 else nullcontext():
            features: Tensor = backbone(inputs)
        return features


@contextmanager
def _alone(backbone: nn.Module) -> Iterator[None]:
    """Lets BatchNorm use its running statistics where a row alone has but one value of each channel."""

    def spare(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            norm.training = False

    # the statistics of a SyncBatchNorm are those of all processes' rows
    norms = [part for part in backbone.modules() if isinstance(part, _BatchNorm) and part.training]
    norms = [norm for norm in norms if not isinstance(norm, nn.SyncBatchNorm)]
    hooks = [norm.register_forward_pre_hook(spare) for norm in norms]
    try:
        yield
    finally:
        for hook, norm in zip(hooks, norms, strict=True):
            hook.remove()
            norm.training = True
