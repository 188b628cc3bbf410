"""A bidirectional transformer over tokens.

B: rows, T: tokens, D: embed_dim, K: D / num_heads.
"""

import torch
from torch import Tensor, nn

from lt_cli.backbones.attention import BidirectionalAttention, rotation
from lt_cli.backbones.base import EncoderBackbone
from lt_cli.backbones.blocks import Activation, Block, Norm, check_sizes, initialise_linears, make_norm
from lt_cli.errors import UserError


class Encoder(EncoderBackbone):
    """BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805) of pre-norm blocks, with rotary positions.

    Weights start at N(0, 0.02) as BERT's, positions at N(0, 0.01), residual projections divided by
    sqrt(2 num_layers).

    Args:
        vocab_size: Tokens of the tokenizer, those that pad and separate included.
        max_seq_len: Longest input, in tokens.
        embed_dim: Feature width; a multiple of num_heads.
        num_heads: Attention heads per block.
        num_layers: Blocks.
        norm: rmsnorm (a gain, no mean, no bias), or layernorm as in BERT.
        activation: The exact gelu as in BERT, gelu_tanh, or quick_gelu.
        bias: Whether linear layers and layer norms add a bias.
        rotary: Whether queries and keys are also turned by their position (Su et al. 2021,
            https://arxiv.org/abs/2104.09864), so that attention sees how far apart two tokens are; false for learned
            positions only.
        dropout: Probability of dropping an element of a residual or an embedding, in training; attention weights are
            kept, as dropping them costs the fused kernel on a CPU.
        num_segments: Kinds of texts in one row that it tells apart, such as a question and its context; 0 for none.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size); T <= max_seq_len
        - attention_mask: (B, T), 1 for tokens, 0 for padding, which is on the right
        - token_type_ids: (B, T), int64
        - output: (B, T, D)

    Raises:
        UserError: If a size is below 1, num_segments below 0, embed_dim not a multiple of num_heads, dropout outside
            [0, 1), or an input longer than max_seq_len.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        embed_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 4,
        norm: Norm = "layernorm",
        activation: Activation = "gelu",
        bias: bool = True,
        rotary: bool = True,
        dropout: float = 0.1,
        num_segments: int = 2,
    ) -> None:
        """Builds and initialises all weights."""
        super().__init__()
        sizes = {
            "vocab_size": vocab_size,
            "max_seq_len": max_seq_len,
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "num_layers": num_layers,
        }
        check_sizes(sizes, rotary_axes=int(rotary), dropout=dropout)
        if num_segments < 0:
            raise UserError(f"num_segments ({num_segments}) must be at least 0")
        self.vocab_size, self.max_seq_len, self.embed_dim = vocab_size, max_seq_len, embed_dim
        self.head_dim, self.num_segments, self.rotary = embed_dim // num_heads, num_segments, rotary

        # what lies below the blocks is registered before them, for learning rates that go by depth
        self.token_embedding = nn.Embedding(vocab_size, embed_dim)
        self.position_embedding = nn.Embedding(max_seq_len, embed_dim)
        self.segment_embedding = nn.Embedding(num_segments, embed_dim) if num_segments else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(
                BidirectionalAttention(embed_dim=embed_dim, num_heads=num_heads, bias=bias),
                embed_dim=embed_dim,
                norm=norm,
                activation=activation,
                bias=bias,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = make_norm(norm, embed_dim, bias)
        self._initialise()

    def _initialise(self) -> None:
        """Every parameter's start, in one place; norms keep gain 1 and bias 0."""
        initialise_linears(self, "gpt2", len(self.blocks))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)
        if self.segment_embedding is not None:
            nn.init.normal_(self.segment_embedding.weight, std=0.02)

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """See EncoderBackbone; of padding no token sees anything."""
        length = input_ids.shape[1]
        if length > self.max_seq_len:
            raise UserError(f"a sequence of {length} tokens is longer than max_seq_len ({self.max_seq_len})")
        x = self.token_embedding(input_ids) + self.position_embedding.weight[:length]
        if self.segment_embedding is not None:
            segments = self.segments(token_type_ids)
            x = x + (self.segment_embedding.weight[0] if segments is None else self.segment_embedding(segments))
        x = self.dropout(x)
        turns = rotation(torch.arange(length, device=x.device)[:, None], self.head_dim) if self.rotary else None
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        for block in self.blocks:
            x = block(x, turns, mask)
        return self.norm(x)  # type: ignore[no-any-return]
