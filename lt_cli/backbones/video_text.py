"""A causal text model that also reads the frames of a video.

B: rows, T: places of a row, F: frames, V: numbers of a frame, D: embed_dim.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_cli.backbones.base import Cache, CausalVectorBackbone, VideoTextBackbone
from lt_cli.errors import UserError


class VideoText(VideoTextBackbone):
    """Frames, made as wide as tokens, before the text in one causal model (Li et al. 2020, AVSD's unified transformer).

    See https://arxiv.org/abs/2002.00163. A row's frames and tokens follow one another without a gap, so that they have
    the positions that they would have alone, and padding at the end is seen by nobody: a row's features do not depend
    on the others of its batch.

    Args:
        text: The text model, such as lt_cli.backbones.gpt.GPT with start_token=false, or
            lt_cli.backbones.huggingface.HuggingFaceCausalLM; its max_seq_len counts frames and tokens.
        video_dim: Numbers in a frame, as the data's features have: 4224 for the I3D and VGGish of the AVSD challenges.
        num_segments: Kinds of places: frames, captions, questions and answers.

    Shape:
        - input_ids, token_type_ids: (B, T), int64
        - video: (B, F, V)
        - num_frames: (B,), int64
        - output: (B, T, D)

    Raises:
        UserError: If a size is below 1, or the text model has a start token or a grid of its own.
    """

    sizes_at = "text.init_args."

    def __init__(self, *, text: CausalVectorBackbone, video_dim: int = 4224, num_segments: int = 4) -> None:
        """Draws the projection as torch does, and the kinds' vectors from N(0, 0.02), as GPT-2's tokens are."""
        super().__init__()
        for name, size in (("video_dim", video_dim), ("num_segments", num_segments)):
            if size < 1:
                raise UserError(f"{name} ({size}) must be at least 1")
        if text.start_id is not None:
            raise UserError(
                "text has a start token of its own, which would have no use, as rows begin with a video: "
                "set --model.backbone.init_args.text.init_args.start_token=false"
            )
        if text.grid_width is not None:
            raise UserError(
                f"grid_width ({text.grid_width}) must be null, as a row is no picture: "
                "set --model.backbone.init_args.text.init_args.grid_width=null"
            )
        self.text, self.video_dim, self.num_segments = text, video_dim, num_segments
        self.embed_dim, self.vocab_size, self.max_seq_len = text.embed_dim, text.vocab_size, text.max_seq_len
        self.given = frozenset(f"text.{name}" for name in text.given)
        self.given_fingerprint = text.given_fingerprint
        if text.rebuild_config is not None:
            sizes: dict[str, Any] = {"video_dim": video_dim, "num_segments": num_segments}
            self.rebuild_config = {
                "class_path": f"{type(self).__module__}.{type(self).__name__}",
                "init_args": {"text": text.rebuild_config, **sizes},
            }
        width = text.embed(torch.zeros(1, 1, dtype=torch.int64, device=next(text.parameters()).device)).shape[-1]
        self.projection = nn.Linear(video_dim, width)
        self.segments = nn.Embedding(num_segments, width)
        nn.init.normal_(self.segments.weight, std=0.02)

    def embed(self, input_ids: Tensor, *, token_type_ids: Tensor, video: Tensor, num_frames: Tensor) -> Tensor:
        """See VideoTextBackbone."""
        vectors = self.text.embed(input_ids)
        frames = self.projection(video.to(self.projection.weight.dtype)).to(vectors.dtype)
        frames = F.pad(frames, (0, 0, 0, input_ids.shape[1] - frames.shape[1]))
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        is_frame = places < num_frames[:, None]
        vectors = frames.where(is_frame[..., None], vectors)
        return vectors + self.segments(token_type_ids)  # type: ignore[no-any-return]

    def embed_tokens(self, input_ids: Tensor, *, token_type_ids: Tensor) -> Tensor:
        """See VideoTextBackbone."""
        return self.text.embed(input_ids) + self.segments(token_type_ids)  # type: ignore[no-any-return]

    def read(self, vectors: Tensor, *, cache: Cache | None = None) -> Tensor:
        """See VideoTextBackbone."""
        return self.text.read(vectors, cache=cache)

    def output_matrix(self) -> tuple[Tensor, Tensor | None]:
        """The text model's."""
        return self.text.output_matrix()

    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """See VideoTextBackbone."""
        return self.text.make_cache(batch_size, max_len)
