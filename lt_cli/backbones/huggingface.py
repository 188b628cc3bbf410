"""Models of Hugging Face transformers as backbones: one base with what they share, a small class for each role."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from textwrap import shorten
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import Cache, CausalBackbone
from lt_cli.errors import UserError

# transformers takes a second to import, so each function that needs it imports it itself.


class _HuggingFaceCausal(CausalBackbone):
    """What all causal models of transformers share; a subclass says which they are and where the start token is.

    Args:
        models: The name of the model's class for each ``model_type`` that the role knows.
        pretrained: As in the subclass.
        architecture: As in the subclass.
        vocab_size: Rows of the embedding table; None leaves them to the two above.
        max_seq_len: As in the subclass.
    """

    rebuild_config: dict[str, Any]

    def __init__(
        self,
        models: Mapping[str, str],
        pretrained: str | None,
        architecture: dict[str, Any] | None,
        vocab_size: int | None,
        max_seq_len: int | None,
    ) -> None:
        super().__init__()
        config = _build_config(models, pretrained, architecture, vocab_size, max_seq_len)
        self.model, self.pretrained = _build_model(models, config, pretrained)
        self.vocab_size, self.max_seq_len = config.vocab_size, config.max_position_embeddings
        self.num_layers, self.start_id = config.num_hidden_layers, None
        self.embed_dim = self.model.get_output_embeddings().weight.shape[1]
        settings = {"architecture": _plain(config), "vocab_size": None, "max_seq_len": None}
        self.rebuild_config = {
            "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
            "init_args": {"pretrained": None, **settings},
        }
        with _user_error(f"model_type ({config.model_type!r}) cannot be a causal backbone"):
            self._check()
        self.train()  # from_pretrained returns eval mode, which Lightning would keep

    @torch.no_grad()
    def _check(self) -> None:
        """Compares with the model's own logits for one token more: equal if causal and the head is a plain product.

        Raises:
            UserError: If they differ.
        """
        self.eval()
        input_ids = torch.arange(min(4, self.max_seq_len))[None] % self.vocab_size
        logits = 1000 * self.unembed(self(input_ids[:, : max(1, input_ids.shape[1] - 1)]))
        # A soft cap does not show on the small logits of fresh weights, so the check makes them large.
        with self.model.get_output_embeddings().register_forward_hook(lambda module, args, output: 1000 * output):
            own = self.model(input_ids)[0][:, : logits.shape[1], : self.vocab_size]
        if (logits - own).abs().max() > 1e-3 * own.abs().max():
            raise UserError("it attends to later tokens, or its logits are more than features times output embeddings")

    def forward(self, input_ids: Tensor, *, cache: Cache | None = None) -> Tensor:
        """See CausalBackbone.

        Raises:
            UserError: If the input, with what the cache holds, is longer than ``max_seq_len``.
        """
        past = None if cache is None else cast(_Cache, cache).past
        length = input_ids.shape[1] + (0 if past is None else past.get_seq_length())
        if length > self.max_seq_len:
            raise UserError(
                f"a sequence of {length} tokens is longer than the backbone's max_seq_len ({self.max_seq_len}): "
                f"shorten it, or train a backbone with --model.backbone.init_args.max_seq_len={length}"
            )
        embeds = self._embed(input_ids)
        features: Tensor = self.model.base_model(inputs_embeds=embeds, past_key_values=past, use_cache=past is not None)[0]
        return features

    def _embed(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeds

    def hidden_states(self, input_ids: Tensor, layer: int) -> Tensor:
        """See CausalBackbone; the blocks above ``layer`` are not run.

        Raises:
            UserError: If ``layer`` is not in [0, num_layers].
        """
        if not 0 <= layer <= self.num_layers:
            raise UserError(f"layer ({layer}) must be between 0 and num_layers ({self.num_layers})")
        lists = (module for module in self.model.base_model.modules() if isinstance(module, nn.ModuleList))
        blocks = next(module for module in lists if len(module) == self.num_layers)
        hook = (
            blocks[layer - 1].register_forward_hook(lambda module, args, output: _stop(output))
            if layer
            else blocks[0].register_forward_pre_hook(lambda module, args: _stop(args))
        )
        with hook:
            try:
                return self(input_ids)  # type: ignore[no-any-return] # not reached: the hook raises
            except _Stop as stop:
                return stop.hidden

    def unembed(self, features: Tensor) -> Tensor:
        """See CausalBackbone."""
        logits: Tensor = self.model.get_output_embeddings()(features)
        return logits[..., : self.vocab_size]  # ImageGPT's head has a column for the start token if tied

    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """See CausalBackbone; it grows, as a cache of fixed size is no faster here and wrong in ImageGPT."""
        from transformers import DynamicCache

        return _Cache(DynamicCache(config=self.model.config))


class HuggingFaceCausalLM(_HuggingFaceCausal):
    """Any causal language model of transformers (https://huggingface.co/docs/transformers): GPT-2, Llama and so on.

    Args:
        pretrained: Name on the Hugging Face hub, or local directory, of the weights; None draws them at random.
        architecture: Settings of transformers' configuration for this ``model_type``, by their names there: all that
            differs from its defaults or, with ``pretrained``, from the configuration of the weights.
        vocab_size: Tokens it can predict; None leaves it to the architecture.
        max_seq_len: Longest input, in tokens, the start token included; None leaves it to the architecture.
        start_token: Adds a learned token that begins a sequence, for tasks that predict the first token too; its id
            is ``vocab_size``.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size), or vocab_size for the start token
        - output: (B, T, D), D = embed_dim

    Raises:
        UserError: If no such model can be built or loaded, or its head is more than output embeddings.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        max_seq_len: int | None = None,
        start_token: bool = False,
    ) -> None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        super().__init__(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, pretrained, architecture, vocab_size, max_seq_len)
        self.rebuild_config["init_args"]["start_token"] = start_token
        if start_token:
            width = self.model.get_input_embeddings().weight.shape[1]
            self.start_id, self.pretrained = self.vocab_size, False
            self.start = nn.Parameter(torch.empty(width).normal_(std=0.02))

    def _embed(self, input_ids: Tensor) -> Tensor:
        if self.start_id is None:
            return super()._embed(input_ids)
        is_start = input_ids == self.start_id
        return torch.where(is_start[..., None], self.start, super()._embed(input_ids.masked_fill(is_start, 0)))


class HuggingFaceImageGPT(_HuggingFaceCausal):
    """ImageGPT in transformers (Chen et al. 2020, https://huggingface.co/docs/transformers/model_doc/imagegpt).

    Args:
        pretrained: Name on the Hugging Face hub, or local directory, of the weights; None draws them at random.
        architecture: Settings of transformers' ImageGPTConfig and ``model_type: imagegpt``: all that differs from its
            defaults or, with ``pretrained``, from the configuration of the weights. Its vocab_size counts the start
            token.
        vocab_size: Colours, without the start token; None leaves them to the architecture.
        max_seq_len: Longest input, in tokens, the start token included: as many as the image has pixels, as the last
            one is never an input. None leaves it to the architecture.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size), or vocab_size for the start token
        - output: (B, T, D), D = embed_dim

    Raises:
        UserError: If no such model can be built or loaded.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        max_seq_len: int | None = None,
    ) -> None:
        rows = None if vocab_size is None else vocab_size + 1
        super().__init__({"imagegpt": "ImageGPTForCausalImageModeling"}, pretrained, architecture, rows, max_seq_len)

