"""Encoder-decoder models of Hugging Face transformers as backbones."""

from typing import Any, cast

import torch
from torch import Tensor

from lt_cli.backbones.base import Cache, Seq2SeqBackbone
from lt_cli.backbones.huggingface import HuggingFaceLanguageBackbone, stop, stopped
from lt_cli.backbones.lora import LoRA
from lt_cli.errors import UserError

FAMILIES = (
    *("t5", "mt5", "umt5", "longt5", "bart", "mbart", "plbart", "mvp", "led", "marian", "m2m_100"),
    *("pegasus", "pegasus_x", "bigbird_pegasus", "blenderbot", "blenderbot-small"),
)
"""The ``model_type`` of those over text; transformers also lists speech, and experts that need a loss of their own."""

RELATIVE_LEN = 512
"""Longest source of a model whose positions are relative, where its configuration does not say: what T5 learned on."""


class HuggingFaceSeq2Seq(HuggingFaceLanguageBackbone, Seq2SeqBackbone):
    """Encoder-decoder models of transformers, https://huggingface.co/docs/transformers: T5, BART, Marian and so on.

    Its features are what the decoder's head multiplies with the embeddings: those of T5 are scaled already.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' configuration, by their names there. With ``pretrained``, those to
            change in it; without, ``model_type`` and what differs from its defaults.
        vocab_size: Tokens it can read and predict; None for as many as the architecture says. Where that has more, as
            tables of the hub are often padded to a round size, only the first are used.
        max_seq_len: Longest source, in tokens; None for all that the encoder has positions for. Relative positions
            have no end: None is then what the weights were trained on, 512 unless their configuration says otherwise.
        max_target_len: Longest target, in tokens, the start token included; None for all that the decoder has
            positions for, or ``max_seq_len`` where positions are relative.
        start_id: Token that begins a target, any row of the table; None for what the weights or the architecture say,
            else 0. Models of several languages may begin with that of the target.
        lora: Trains low-rank adapters and keeps all other weights as they are; None trains all weights.

    Shape:
        - input_ids: (B, S), int64 in [0, vocab_size)
        - attention_mask: (B, S), 1 for tokens, 0 for padding
        - decoder_input_ids: (B, T), int64 in [0, vocab_size) or start_id
        - output: (B, T, D), D = embed_dim

    Raises:
        UserError: If no such model can be built or loaded, its logits are not features times a matrix or see the
            padding, or it has no cache.
    """

    role = "a seq2seq backbone"
    kind = "a seq2seq language model of transformers, such as 't5'"
    optional_sizes = frozenset({"max_position_embeddings"})
    final_logits_bias: Tensor | None
    _num_positions: int | None

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        max_seq_len: int | None = None,
        max_target_len: int | None = None,
        start_id: int | None = None,
        lora: LoRA | None = None,
    ) -> None:
        """Builds the model, and loads its weights if there are any."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as MODELS

        models = {name: MODELS[name] for name in FAMILIES if name in MODELS}
        super().__init__(models, pretrained, architecture, vocab_size, max_seq_len, lora=lora)
        self._shorten_targets(max_target_len)
        self.start_id = self._start(architecture, start_id)
        self.rebuild_config["init_args"] |= {"max_target_len": self.max_target_len, "start_id": self.start_id}

    def _shorten_targets(self, max_target_len: int | None) -> None:
        if max_target_len is None:
            return
        if max_target_len < 1:
            raise UserError(f"max_target_len ({max_target_len}) must be at least 1")
        if self._num_positions is not None and max_target_len > self._num_positions:
            raise UserError(
                f"max_target_len ({max_target_len}) must be at most {self._num_positions}, the positions of the "
                "decoder: make it less, or architecture.max_position_embeddings more"
            )
        self.max_target_len = max_target_len

    def _start(self, architecture: dict[str, Any] | None, start_id: int | None) -> int:
        """What was said here, in the architecture, or beside the weights."""
        name, model = "decoder_start_token_id", self.hf_model
        said = (architecture or {}).get(name), getattr(model.generation_config, name), getattr(model.config, name, None)
        start = next((token for token in (start_id, *said) if token is not None), 0)
        rows = model.get_output_embeddings().weight.shape[0]
        if not 0 <= start < rows:
            raise UserError(f"start_id ({start}) must be from 0 to {rows - 1}, a row of the table of tokens")
        return start

    def _hold(self, model: Any) -> None:
        """Also holds what some models add to their logits, by its name there."""
        bias = model._buffers.pop("final_logits_bias", None)
        super()._hold(model)
        self.register_buffer("final_logits_bias", bias)
        if bias is not None:
            model.register_buffer("final_logits_bias", bias)

    @property
    def hf_model(self) -> Any:
        """The model of transformers itself, with the same modules and the same bias, which may have moved."""
        model = super().hf_model
        if self.final_logits_bias is not None:
            model.final_logits_bias = self.final_logits_bias
        return model

    def _longest(self, max_seq_len: int | None) -> int:
        """Tokens that encoder and decoder have positions for, where they are counted."""
        config = self.hf_model.config
        positions, self._num_positions = (
            getattr(config, f"max_{side}_position_embeddings", getattr(config, "max_position_embeddings", None))
            for side in ("encoder", "decoder")  # LED has two numbers
        )
        if positions is not None and positions < (max_seq_len or 1):
            raise UserError(f"max_seq_len ({max_seq_len}) must be at most {positions}, the positions of the encoder")
        longest = int(max_seq_len or positions or getattr(config, "n_positions", None) or RELATIVE_LEN)
        self.max_target_len = self._num_positions or longest
        return longest

    @torch.no_grad()
    def _check(self) -> None:
        """Compares with the model's own logits, which see one token more and no cache, and a source with one padded."""
        self.eval()
        if self.hf_model.get_output_embeddings().weight.shape[0] != self.hf_model.config.vocab_size:
            raise UserError("its sources and targets have vocabularies of their own, where one tokenizer is for both")
        source = torch.arange(min(3, self.max_seq_len))[None] % self.vocab_size
        target = torch.arange(min(3, self.max_target_len))[None] % self.vocab_size
        own = {"input_ids": source, "decoder_input_ids": target}
        cache = self.make_cache(source, max_len=self.max_target_len)
        steps = [self.decode(target[:, t : t + 1], cache=cache) for t in range(min(2, self.max_target_len))]
        if not all(self._agrees(features, **own) for features in (self(**own), torch.cat(steps, dim=1))):
            raise UserError("its logits are not features times a matrix, or it needs later tokens or has no cache")
        mask = torch.ones_like(source)
        mask[:, 1:] = 0
        alone = self(source[:, :1], decoder_input_ids=target)
        padded = self(source, attention_mask=mask, decoder_input_ids=target)
        if (padded - alone).abs().max() > 1e-3 * alone.abs().max():
            raise UserError("its features see the padding behind a source")

    def _agrees(self, features: Tensor, **inputs: Tensor) -> bool:
        """As above, where the head's output is not yet the logits."""
        if self.final_logits_bias is None:
            return super()._agrees(features, **inputs)
        own = self.hf_model(**inputs)[0][:, : features.shape[1], : self.vocab_size]
        return bool((self.unembed(features) - own).abs().max() <= 1e-3 * own.abs().max())

    def output_matrix(self) -> tuple[Tensor, Tensor | None]:
        """See LanguageBackbone."""
        matrix, bias = super().output_matrix()
        return matrix, bias if self.final_logits_bias is None else self.final_logits_bias[0, : self.vocab_size]

    def forward(self, input_ids: Tensor, *, attention_mask: Tensor | None = None, decoder_input_ids: Tensor) -> Tensor:
        """See Seq2SeqBackbone; the logits are not computed.

        Raises:
            UserError: If a source is longer than ``max_seq_len`` or a target than ``max_target_len``.
        """
        self._refuse_longer(input_ids.shape[1])
        self._refuse_longer_target(decoder_input_ids.shape[1])
        return self._features(input_ids=input_ids, decoder_input_ids=decoder_input_ids, **_masked(attention_mask))

    def _features(self, **inputs: Any) -> Tensor:
        hook = self.hf_model.get_output_embeddings().register_forward_pre_hook(lambda module, args: stop(args))
        return stopped(hook, lambda: self.hf_model(**({"use_cache": False} | inputs)))

    def _refuse_longer_target(self, length: int) -> None:
        if length > self.max_target_len:
            raise UserError(
                f"the target's length ({length} tokens) must not exceed the backbone's max_target_len "
                f"({self.max_target_len}): shorten it, or train with --model.backbone.init_args.max_target_len={length}"
            )

    def make_cache(self, input_ids: Tensor, *, attention_mask: Tensor | None = None, max_len: int) -> Cache:
        """See Seq2SeqBackbone; it grows as needed.

        Raises:
            UserError: If a source is longer than ``max_seq_len``.
        """
        from transformers import DynamicCache, EncoderDecoderCache

        self._refuse_longer(input_ids.shape[1])
        mask = _masked(attention_mask)
        memory = self.hf_model.get_encoder()(input_ids=input_ids, **mask)[0]
        return _Cache(EncoderDecoderCache(DynamicCache(), DynamicCache()), {"memory": memory, **mask})

    def decode(self, decoder_input_ids: Tensor, *, cache: Cache) -> Tensor:
        """See Seq2SeqBackbone.

        Raises:
            UserError: If the target, with what the cache holds of it, is longer than ``max_target_len``.
        """
        seen = cast(_Cache, cache)
        self._refuse_longer_target(decoder_input_ids.shape[1] + int(seen.past.get_seq_length()))
        source = dict(seen.source)
        memory = (source.pop("memory"),)
        return self._features(
            encoder_outputs=memory,
            decoder_input_ids=decoder_input_ids,
            past_key_values=seen.past,
            use_cache=True,
            **source,
        )


class _Cache:
    """What the decoder has seen of each target, and the sources, which the beams of one target share.

    Attributes:
        past: Keys and values of the targets and of the sources.
        source: What the encoder made of each source, and its mask.
    """

    def __init__(self, past: Any, source: dict[str, Tensor]) -> None:
        self.past, self.source = past, source
        self.of_source = torch.arange(len(source["memory"]), device=source["memory"].device)

    def reorder(self, rows: Tensor) -> None:
        """See Cache; a source is not copied again where each row keeps its own."""
        self.past.self_attention_cache.reorder_cache(rows)
        of_source = self.of_source[rows]
        if not torch.equal(of_source, self.of_source):
            self.past.cross_attention_cache.reorder_cache(rows)
            self.source = {name: tensor[rows] for name, tensor in self.source.items()}
            self.of_source = of_source


def _masked(attention_mask: Tensor | None) -> dict[str, Tensor]:
    return {} if attention_mask is None else {"attention_mask": attention_mask.long()}
