"""The seam between backbones and tasks: all that a task may ask of a backbone."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from lt_cli.errors import UserError


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
        sizes_at: Where among its arguments are those of sizes and weights, for messages: in a backbone within, such as
            ``text.init_args.``
    """

    embed_dim: int
    pretrained: bool = False
    rebuild_config: dict[str, Any] | None = None
    given: frozenset[str] = frozenset()
    given_fingerprint: str | None = None
    sizes_at: str = ""


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocessing:
    """How pictures looked that a backbone was trained on, or is made for.

    Args:
        size: Height and width in pixels.
        resize: Shorter side in pixels, of which the middle is then cut out.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.

    Raises:
        UserError: If a number of pixels is below 1.
    """

    size: tuple[int, int]
    resize: int
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if min(*self.size, self.resize) < 1:
            pixels = f"preprocessing.size ({list(self.size)}) and preprocessing.resize ({self.resize})"
            raise UserError(
                f"{pixels} must be at least 1 pixel: --model.backbone.init_args.preprocessing.size=[224,224]"
            )


class PooledBackbone(Backbone):
    """A backbone with one feature for each row: of a picture, or of a row of a table.

    One that does not say ``embed_dim`` is given it by the task, which tries it out.

    Attributes:
        preprocessing: How it wants pictures to be cut out; None where any will do.
    """

    preprocessing: Preprocessing | None = None

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """The features of rows, each of which depends on its own row only in eval mode.

        Pictures are scaled here as the weights want them, so that whoever makes the batches need not know.

        Shape:
            - inputs: (B, F), float, for rows of a table; (B, C, H, W), uint8, or float in [0, 1], for pictures
            - output: (B, D), D = embed_dim
        """


class Cache(Protocol):
    """Keys and values of the tokens a causal backbone has seen; opaque to everyone else."""

    def reorder(self, rows: Tensor) -> None:
        """Makes row i the continuation of what was row ``rows[i]``, be it more rows or fewer, as beam search needs."""


class TokenBackbone(Backbone):
    """A backbone over tokens.

    Attributes:
        vocab_size: Tokens it knows; their ids are [0, vocab_size).
        max_seq_len: Longest input, in tokens, a start token included.
    """

    vocab_size: int
    max_seq_len: int


class EncoderBackbone(TokenBackbone):
    """A backbone whose features are for a head to read: of classes, of spans, of whole texts.

    Attributes:
        num_segments: Kinds of ``token_type_ids`` that it tells apart; 0 where it takes none.
    """

    num_segments: int

    @abstractmethod
    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Features of each token; those of a row's tokens never depend on its padding, or on other rows.

        Shape:
            - input_ids: (B, T), int64 in [0, vocab_size)
            - attention_mask: (B, T), 1 for tokens, 0 for padding, which is on the right; None where nothing is padded
            - token_type_ids: (B, T), int64, the segment of each token, such as 0 in a question and 1 in its context;
              the last that it knows stands for those beyond, and None for 0 everywhere
            - output: (B, T, D), D = embed_dim
        """

    def segments(self, token_type_ids: Tensor | None) -> Tensor | None:
        """The segments as it tells them apart: its last stands for those beyond; None where it takes none."""
        if token_type_ids is None or not self.num_segments:
            return None
        return token_type_ids.clamp(max=self.num_segments - 1)


class LanguageBackbone(TokenBackbone):
    """A backbone that predicts tokens: their logits are a matrix times its features."""

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


class MaskedBackbone(LanguageBackbone):
    """A backbone whose feature t depends on all inputs, and speaks of token t itself."""

    @abstractmethod
    def forward(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
        """Features of each token.

        Shape:
            - input_ids: (B, T), int64 in [0, vocab_size)
            - attention_mask: (B, T), 1 for tokens, 0 for padding; None where nothing is padded
            - output: (B, T, D), D = embed_dim
        """


class CausalBackbone(LanguageBackbone):
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


class CausalVectorBackbone(CausalBackbone):
    """A causal backbone that also reads vectors as wide as its tokens' embeddings, such as frames of a video."""

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """The embeddings of tokens, which know nothing of positions.

        Shape:
            - input_ids: (B, T)
            - output: (B, T, D)
        """

    @abstractmethod
    def read(self, vectors: Tensor, *, cache: Cache | None = None) -> Tensor:
        """What ``forward`` gives for tokens with these embeddings.

        Shape:
            - vectors, output: (B, T, D)
        """


class VideoTextBackbone(LanguageBackbone):
    """A backbone whose rows are the frames of a video and then tokens; feature t depends on what is up to t.

    Attributes:
        max_seq_len: Longest row, frames and tokens together.
        video_dim: Numbers in a frame.
        num_segments: Kinds of ``token_type_ids`` that it tells apart.
    """

    video_dim: int
    num_segments: int

    @abstractmethod
    def embed(self, input_ids: Tensor, *, token_type_ids: Tensor, video: Tensor, num_frames: Tensor) -> Tensor:
        """What ``read`` reads: frames where a row has them, tokens behind, each with its kind.

        Shape:
            - input_ids: (B, T), int64 in [0, vocab_size); in the places of frames it stands for nothing
            - token_type_ids: (B, T), int64 in [0, num_segments)
            - video: (B, F, video_dim), float; what is behind a row's frames is not read
            - num_frames: (B,), int64, at most F: a row's first places
            - output: (B, T, D), D = embed_dim
        """

    @abstractmethod
    def embed_tokens(self, input_ids: Tensor, *, token_type_ids: Tensor) -> Tensor:
        """The same of tokens alone, as they are written behind a row.

        Shape:
            - input_ids, token_type_ids: (B, T)
            - output: (B, T, D)
        """

    @abstractmethod
    def read(self, vectors: Tensor, *, cache: Cache | None = None) -> Tensor:
        """Features of each place; with a cache, of places that follow those already in it.

        What stands behind a row's end changes nothing before it, so that rows are padded there and need no mask.

        Shape:
            - vectors, output: (B, T, D)
        """

    @abstractmethod
    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """An empty cache for ``batch_size`` rows of up to ``max_len`` places."""

    def forward(self, input_ids: Tensor, *, token_type_ids: Tensor, video: Tensor, num_frames: Tensor) -> Tensor:
        """Features of each place; shapes are those of ``embed``."""
        return self.read(self.embed(input_ids, token_type_ids=token_type_ids, video=video, num_frames=num_frames))


class Seq2SeqBackbone(LanguageBackbone):
    """An encoder and a decoder: feature t depends on a whole source and on the target up to t.

    Attributes:
        max_seq_len: Longest source, in tokens.
        max_target_len: Longest target, in tokens, the start token included.
        start_id: Id of the token that begins a target.
    """

    max_target_len: int
    start_id: int

    @abstractmethod
    def forward(self, input_ids: Tensor, *, attention_mask: Tensor | None = None, decoder_input_ids: Tensor) -> Tensor:
        """Features of each token of the targets, all of which are known.

        Shape:
            - input_ids: (B, S), int64 in [0, vocab_size)
            - attention_mask: (B, S), 1 for tokens, 0 for padding; None where nothing is padded
            - decoder_input_ids: (B, T), int64, start_id first; what pads them at their end changes nothing before it
            - output: (B, T, D), D = embed_dim
        """

    @abstractmethod
    def make_cache(self, input_ids: Tensor, *, attention_mask: Tensor | None = None, max_len: int) -> Cache:
        """The sources, read once, and no target yet; it has room for ``max_len`` tokens of each.

        Shape:
            - input_ids, attention_mask: (B, S)
        """

    @abstractmethod
    def decode(self, decoder_input_ids: Tensor, *, cache: Cache) -> Tensor:
        """Features of tokens that follow those in the cache.

        Shape:
            - decoder_input_ids: (B, T), int64, start_id first where the cache has no target yet
            - output: (B, T, D), D = embed_dim
        """
