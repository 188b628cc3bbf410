"""The seam between backbones and tasks: all that a task may ask of a backbone."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Turns inputs into features.

    Attributes:
        embed_dim: Width of the features.
        pretrained: True where every weight was loaded, none drawn at random.
        rebuild_config: The ``class_path`` and ``init_args`` that build this backbone again without the
            source of its weights, but for those that are ``given``; a checkpoint stores it in place of the
            run's own. None where the run's own configuration does.
        given: Names of those weights that building it anew brings back as they were, so that a checkpoint leaves
            them out; of the state_dict of the backbone.
        given_fingerprint: What tells these weights from others, or None where there are none.
    """

    embed_dim: int
    pretrained: bool = False
    rebuild_config: dict[str, Any] | None = None
    given: frozenset[str] = frozenset()
    given_fingerprint: str | None = None


class Cache(Protocol):
    """Keys and values of the tokens a causal backbone has seen; opaque to everyone else."""

    def reorder(self, rows: Tensor) -> None:
        """Makes row i the continuation of what was row ``rows[i]``, as beam search needs."""


class TokenBackbone(Backbone):
    """A backbone over tokens, whose logits are a matrix times its features.

    Attributes:
        vocab_size: Tokens it can predict; their ids are [0, vocab_size).
        max_seq_len: Longest input, in tokens, a start token included.
    """

    vocab_size: int
    max_seq_len: int

    @abstractmethod
    def output_matrix(self) -> tuple[Tensor, Tensor | None]:
        """What features become logits with; a loss over many tokens reads it, to never hold all logits at once.

        Shape:
            - matrix: (vocab_size, D)
            - bias: (vocab_size,), or None
        """

    def unembed(self, features: Tensor) -> Tensor:
        """Logits of the tokens that features speak of: of the next ones in a causal backbone.

        Shape:
            - features: (..., D)
            - output: (..., vocab_size)
        """
        return F.linear(features, *self.output_matrix())


class MaskedBackbone(TokenBackbone):
    """A backbone whose feature t depends on all inputs, and speaks of token t itself."""

    @abstractmethod
    def forward(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
        """Features of each token.

        Shape:
            - input_ids: (B, T), int64 in [0, vocab_size)
            - attention_mask: (B, T), 1 for tokens, 0 for padding; None where nothing is padded
            - output: (B, T, D), D = embed_dim
        """


class CausalBackbone(TokenBackbone):
    """A backbone whose feature t depends on the inputs up to t and on nothing after.

    Attributes:
        num_layers: Blocks; the depths that ``hidden_states`` knows.
        start_id: Id of a learned token that begins a sequence and is never predicted, or None.
        grid_width: Tokens in a row of a picture, where positions are rows and columns; None where they are numbers.
        separates_documents: Whether ``forward`` also takes ``position_ids`` (B, T), the place of each token in its own
            document: where they go back to 0 another document begins, which sees nothing of those before it.
    """

    num_layers: int
    start_id: int | None
    grid_width: int | None = None
    separates_documents: bool = False

    @abstractmethod
    def forward(self, input_ids: Tensor, *, cache: Cache | None = None) -> Tensor:
        """Features of each token; with a cache, of tokens that follow those already in it.

        Shape:
            - input_ids: (B, T), int64 in [0, vocab_size) or start_id
            - output: (B, T, D), D = embed_dim
        """

    @abstractmethod
    def hidden_states(self, input_ids: Tensor, layer: int) -> Tensor:
        """The residual stream after the first ``layer`` blocks, 0 (embeddings) to num_layers, not normalised.

        Shape:
            - input_ids: (B, T)
            - output: (B, T, D)
        """

    @abstractmethod
    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """An empty cache for ``batch_size`` sequences of up to ``max_len`` tokens."""
