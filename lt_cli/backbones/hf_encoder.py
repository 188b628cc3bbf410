"""Models of Hugging Face transformers whose features heads read."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from lt_cli.backbones.base import EncoderBackbone
from lt_cli.backbones.hf_base import HuggingFaceBackbone
from lt_cli.backbones.lora import LoRA
from lt_cli.errors import UserError


class HuggingFaceEncoder(HuggingFaceBackbone, EncoderBackbone):
    """Any encoder of transformers, https://huggingface.co/docs/transformers: BERT, RoBERTa, DeBERTa and so on.

    Decoders such as GPT-2 and Llama too, without their output layers; a feature then knows the tokens up to its own
    only. Weights of a model with a head, as for masked tokens or classes, are loaded without the head. There is no
    pooler: features are the last hidden states.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' configuration, by their names there. With ``pretrained``, those to
            change in it; without, ``model_type`` and what differs from its defaults.
        vocab_size: Tokens it knows; None for as many as the architecture says. Where that has more, as tables of the
            hub are often padded to a round size, only the first are used.
        max_seq_len: Longest input, in tokens; None for all that the model has positions for, which in RoBERTa's
            family begin behind that of the padding.
        lora: Trains low-rank adapters and keeps all other weights as they are; None trains all weights.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size)
        - attention_mask: (B, T), 1 for tokens, 0 for padding, which is on the right
        - token_type_ids: (B, T), int64; models without segments, such as DistilBERT, never see them
        - output: (B, T, D), D = embed_dim

    Raises:
        UserError: If no such model can be built or loaded, or its features see the padding.
    """

    role = "an encoder backbone"
    kind = "an encoder or a decoder alone, such as 'bert' or 'gpt2', not both in one"

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        max_seq_len: int | None = None,
        lora: LoRA | None = None,
    ) -> None:
        """Builds the model, and loads its weights if there are any."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as BOTH
        from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES as MODELS

        names = {kind: name if isinstance(name, str) else name[0] for kind, name in MODELS.items()}
        alone = {kind: name for kind, name in names.items() if kind not in BOTH}
        super().__init__(alone, pretrained, architecture, vocab_size, max_seq_len, lora=lora)

    def _hold(self, model: Any) -> None:
        """Without gradients for a pooler that the model cannot do without, as they would be waited for under DDP."""
        super()._hold(model)
        if (pooler := getattr(model, "pooler", None)) is not None:
            pooler.requires_grad_(False)

    def _width(self) -> int:
        width: int = self.hf_model.config.hidden_size
        return width

    @torch.no_grad()
    def _check(self) -> None:
        """Tries the first and the last segment, and compares a token before padding with one alone."""
        self.eval()
        self._arguments = frozenset(signature(self.hf_model.forward).parameters)
        takes_segments = "token_type_ids" in self._arguments  # which GPT-2 does, and reads them as tokens
        self.num_segments = getattr(self.hf_model.config, "type_vocab_size", 0) if takes_segments else 0
        input_ids = torch.arange(min(3, self.max_seq_len))[None] % self.vocab_size
        features = self(input_ids, token_type_ids=torch.full_like(input_ids, self.num_segments))
        if features.shape != (*input_ids.shape, self.embed_dim):
            raise UserError("its first output is not a feature for each token, as wide as hidden_size")
        if self._sees_padding():
            raise UserError("its features see the padding behind a token")

    def forward(
        self, input_ids: Tensor, *, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """See EncoderBackbone.

        Raises:
            UserError: If the input is longer than ``max_seq_len``.
        """
        self._refuse_longer(input_ids.shape[1])
        inputs: dict[str, Any] = self._inputs(input_ids, attention_mask)
        if "position_ids" not in self._arguments:
            del inputs["position_ids"]
        if "use_cache" in self._arguments:
            inputs["use_cache"] = False
        if (segments := self.segments(token_type_ids)) is not None:
            inputs["token_type_ids"] = segments
        features: Tensor = self.hf_model(**inputs)[0]
        return features
