"""A causal transformer over tokens, as image GPT and GPT-2 are built.

B: rows, T: tokens, D: embed_dim, H: num_heads, K: D / H, V: vocab_size.
"""

import torch
from torch import Tensor, nn

from lt_cli.backbones.attention import CausalAttention, KeyValueCache, Positions, rotation, same_document
from lt_cli.backbones.base import Cache, CausalVectorBackbone
from lt_cli.backbones.blocks import Activation, Block, Init, Norm, check_sizes, initialise_linears, make_norm
from lt_cli.errors import UserError


class GPT(CausalVectorBackbone):
    """Causal pre-norm transformer, image GPT's by default (Chen et al. 2020, https://openai.com/index/image-gpt).

    With ``norm=layernorm activation=gelu_tanh bias=true tie_embeddings=true start_token=false`` it is GPT-2.
    Positions start at N(0, 0.01), residual projections divided by sqrt(2 num_layers), the output at zero, so that the
    first loss is ln V.

    Args:
        vocab_size: Tokens it predicts, such as the colours of a palette.
        max_seq_len: Longest input, in tokens, the start token included.
        grid_width: Pixels in a row of the pictures: a position is then a row and a column, which is learned sooner;
            null for one number.
        embed_dim: Feature width; a multiple of num_heads.
        num_heads: Attention heads per block.
        num_layers: Blocks.
        norm: rmsnorm (a gain, no mean, no bias) as in image GPT, or layernorm as in GPT-2.
        activation: quick_gelu as in image GPT, gelu_tanh as in GPT-2, or the exact gelu.
        bias: Whether linear layers and layer norms add a bias.
        rotary: Whether queries and keys are also turned by their position (Su et al. 2021,
            https://arxiv.org/abs/2104.09864), so that attention sees how far apart two tokens are.
        dropout: Probability of dropping an element of a residual or an embedding, in training; attention weights are
            kept, as dropping them costs the fused kernel on a CPU.
        init: How weights start: gpt2, N(0, 0.02) at any width, as published; or fan_in, a variance of 1 / inputs (LeCun
            et al. 1998, Efficient BackProp) and tokens N(0, 1), with which narrow models learn sooner.
        tie_embeddings: Whether the output reuses the token embeddings.
        start_token: Whether there is a learned token that begins a sequence, so that the first token is predicted too.

    Shape:
        - input_ids: (B, T), int64 in [0, V), or V for the start token; T <= max_seq_len
        - output: (B, T, D)

    Raises:
        UserError: If a size is below 1, embed_dim is not a multiple of num_heads, dropout is outside [0, 1),
            or an input is longer than max_seq_len.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        embed_dim: int = 512,
        num_heads: int = 8,
        num_layers: int = 24,
        grid_width: int | None = None,
        norm: Norm = "rmsnorm",
        activation: Activation = "quick_gelu",
        bias: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
        init: Init = "gpt2",
        tie_embeddings: bool = False,
        start_token: bool = True,
    ) -> None:
        """Builds and initialises all weights."""
        super().__init__()
        sizes = {
            "vocab_size": vocab_size,
            "max_seq_len": max_seq_len,
            "embed_dim": embed_dim,
            "num_heads": num_heads,
            "num_layers": num_layers,
            "grid_width": grid_width,
        }
        axes = 1 if grid_width is None else 2
        check_sizes(sizes, rotary_axes=axes if rotary else 0, dropout=dropout)
        if tie_embeddings and init == "fan_in":
            raise UserError("init (fan_in) makes embeddings too large to be the output too: set tie_embeddings=false")
        self.vocab_size, self.max_seq_len, self.embed_dim = vocab_size, max_seq_len, embed_dim
        self.num_heads, self.num_layers = num_heads, num_layers
        self.grid_width, self.rotary = grid_width, rotary
        self.separates_documents = grid_width is None
        self.start_id = vocab_size if start_token else None

        self.token_embedding = nn.Embedding(vocab_size + start_token, embed_dim)
        self.position_embedding = nn.Embedding(max_seq_len if grid_width is None else grid_width, embed_dim)
        self.row_embedding = None if grid_width is None else nn.Embedding(-(-max_seq_len // grid_width), embed_dim)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(
                CausalAttention(embed_dim=embed_dim, num_heads=num_heads, bias=bias),
                embed_dim=embed_dim,
                norm=norm,
                activation=activation,
                bias=bias,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = make_norm(norm, embed_dim, bias)
        self.output = None if tie_embeddings else nn.Linear(embed_dim, vocab_size, bias=False)
        self._initialise(init)

    def _initialise(self, init: Init) -> None:
        """Every parameter's start, in one place; norms keep gain 1 and bias 0."""
        initialise_linears(self, init, self.num_layers)
        nn.init.normal_(self.token_embedding.weight, std=0.02 if init == "gpt2" else 1)
        for embedding in (self.position_embedding, self.row_embedding):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.01)
        if self.output is not None:
            nn.init.zeros_(self.output.weight)

    def forward(self, input_ids: Tensor, *, cache: Cache | None = None, position_ids: Tensor | None = None) -> Tensor:
        """Features of each token, ready for ``unembed``; with ``position_ids`` (B, T), of documents kept apart.

        A row may begin inside a document, whose first position is then not 0; every position is in [0, max_seq_len).
        A cache knows one document only, so that both may not be given.
        """
        assert cache is None or position_ids is None
        return self._read(self.embed(input_ids), cache, position_ids)

    def embed(self, input_ids: Tensor) -> Tensor:
        """See CausalVectorBackbone."""
        return self.token_embedding(input_ids)  # type: ignore[no-any-return]

    def read(self, vectors: Tensor, *, cache: Cache | None = None) -> Tensor:
        """See CausalVectorBackbone."""
        return self._read(vectors, cache, None)

    def _read(self, vectors: Tensor, cache: Cache | None, position_ids: Tensor | None) -> Tensor:
        assert cache is None or isinstance(cache, KeyValueCache)
        return self.norm(self._run_blocks(vectors, self.num_layers, cache, position_ids))  # type: ignore[no-any-return]

    def hidden_states(self, input_ids: Tensor, layer: int) -> Tensor:
        """The residual stream after ``layer`` blocks; later blocks are not computed."""
        if not 0 <= layer <= self.num_layers:
            raise UserError(f"layer ({layer}) must be between 0 and num_layers ({self.num_layers})")
        return self._run_blocks(self.embed(input_ids), layer, None)

    def _run_blocks(
        self, vectors: Tensor, num_layers: int, cache: KeyValueCache | None, position_ids: Tensor | None = None
    ) -> Tensor:
        past = cache.length if cache is not None else 0
        end = past + vectors.shape[1]
        if end > self.max_seq_len:
            raise UserError(f"a sequence of {end} tokens is longer than max_seq_len ({self.max_seq_len})")
        if position_ids is not None:
            positions = self._positions_in_documents(position_ids)
        else:
            positions = self._positions(end) if cache is None else cache.positions.between(past, end)
        x: Tensor = self.dropout(vectors + positions.learned)
        for layer, block in enumerate(self.blocks[:num_layers]):
            x = block(x, None if cache is None else cache.layers[layer], positions.turns, positions.mask)
        return x

    def _positions(self, length: int) -> Positions:
        """Of the first tokens: numbers, or rows and columns."""
        numbers = torch.arange(length, device=self.position_embedding.weight.device)
        if self.row_embedding is None or self.grid_width is None:
            places = numbers[:, None]
            learned = self.position_embedding.weight[:length]
        else:
            places = torch.stack([numbers // self.grid_width, numbers % self.grid_width], dim=1)
            learned = self.row_embedding(places[:, 0]) + self.position_embedding(places[:, 1])
        turns = rotation(places, self.embed_dim // self.num_heads) if self.rotary else None
        return Positions(learned, turns)

    def _positions_in_documents(self, position_ids: Tensor) -> Positions:
        """Of tokens (B, T) that begin at 0 again with each document."""
        if self.grid_width is not None:
            raise UserError(
                f"grid_width ({self.grid_width}) must be null where documents are kept apart, as their positions are "
                "numbers: set --model.backbone.init_args.grid_width=null"
            )
        learned = self.position_embedding(position_ids)
        turns = None
        if self.rotary:
            turns = rotation(position_ids.reshape(-1, 1), self.embed_dim // self.num_heads)
            turns = turns.view(*position_ids.shape, *turns.shape[1:])
        return Positions(learned, turns, same_document(position_ids))

    def output_matrix(self) -> tuple[Tensor, None]:
        """The output's weights, or the tokens' embeddings where they are tied."""
        if self.output is not None:
            return self.output.weight, None
        return self.token_embedding.weight[: self.vocab_size], None

    def make_cache(self, batch_size: int, max_len: int) -> KeyValueCache:
        """An empty cache, on the device of the weights, in the dtype that keys and values will have."""
        shape = (batch_size, self.num_heads, max_len, self.embed_dim // self.num_heads)
        like = self.position_embedding.weight.detach()
        if torch.is_autocast_enabled(like.device.type):
            like = like.to(torch.get_autocast_dtype(like.device.type))
        return KeyValueCache(self.num_layers, shape, like, self._positions(max_len))
