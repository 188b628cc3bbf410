"""Language models of Hugging Face transformers as backbones: a small class for each role."""

from collections.abc import Callable
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import Cache, CausalVectorBackbone, LanguageBackbone, MaskedBackbone
from lt_cli.backbones.hf_base import HuggingFaceBackbone
from lt_cli.backbones.lora import LoRA
from lt_cli.errors import UserError


class HuggingFaceLanguageBackbone(HuggingFaceBackbone, LanguageBackbone):
    """What all language models of transformers share: their output layer."""

    def _width(self) -> int:
        width: int = self.hf_model.get_output_embeddings().weight.shape[1]
        return width

    def _agrees(self, features: Tensor, **inputs: Tensor) -> bool:
        """Whether features become the logits that the model itself makes of the inputs, up to where they end."""
        logits = 1000 * self.unembed(features)
        # A soft cap is invisible on the small logits of fresh weights: enlarge them where the cap would come next.
        with self.hf_model.get_output_embeddings().register_forward_hook(lambda module, args, output: 1000 * output):
            own = self.hf_model(**inputs)[0][:, : features.shape[1], : self.vocab_size]
        return bool((logits - own).abs().max() <= 1e-3 * own.abs().max())

    def output_matrix(self) -> tuple[Tensor, Tensor | None]:
        """See LanguageBackbone."""
        head = self.hf_model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[: self.vocab_size]
        return head.weight[: self.vocab_size], bias  # the table may have more rows than there are tokens


class _HuggingFaceCausal(HuggingFaceLanguageBackbone, CausalVectorBackbone):
    """What all causal models of transformers share; a subclass says which they are and what starts a sequence."""

    role = "a causal backbone"
    kind = "a causal language model of transformers, such as 'gpt2'"
    start_id: int | None = None

    @torch.no_grad()
    def _check(self) -> None:
        """Compares with the model's own logits, which see one token more and no cache, so that each fault shows."""
        self.eval()
        self.num_layers = self.hf_model.config.num_hidden_layers
        input_ids = torch.arange(min(3, self.max_seq_len))[None] % self.vocab_size
        cache = self.make_cache(1, self.max_seq_len)
        features = [self(input_ids[:, t : t + 1], cache=cache) for t in range(min(2, self.max_seq_len))]
        if not self._agrees(torch.cat(features, dim=1), input_ids=input_ids):
            raise UserError("its logits are not features times a matrix, or it needs later tokens or has no cache")
        self.hidden_states(input_ids, 0)
        self.hidden_states(input_ids, self.num_layers)
        self.separates_documents = self._keeps_apart()

    def _keeps_apart(self) -> bool:
        """Whether documents in one row have the features that each has alone."""
        position_ids = torch.tensor([[0, 1, 0, 0, 1]])[:, : self.max_seq_len]
        input_ids = torch.arange(position_ids.shape[1])[None] % self.vocab_size
        documents = input_ids.tensor_split([2, 3], dim=1)
        alone = torch.cat([self(document) for document in documents if document.numel()], dim=1)
        try:
            together = self._features(self.embed(input_ids), position_ids=position_ids)
        except Exception:  # a model that knows no positions may raise anything, and do all else well
            return False
        return bool((together - alone).abs().max() <= 1e-3 * alone.abs().max())

    def forward(self, input_ids: Tensor, *, cache: Cache | None = None, position_ids: Tensor | None = None) -> Tensor:
        """See CausalBackbone; transformers makes the mask between documents of the positions.

        Shape:
            - input_ids: (B, T), int64
            - position_ids: (B, T), int64, 0 at the first token of each document; None where a row is one document
            - output: (B, T, D), D = embed_dim

        Raises:
            UserError: If the input, after what the cache holds, ends beyond ``max_seq_len``, or if it has documents
                that the model cannot keep apart.
        """
        if position_ids is None:
            return self.read(self.embed(input_ids), cache=cache)
        if cache is not None:
            raise UserError("position_ids must be None with a cache: documents are kept apart only without one")
        if not self.separates_documents:
            raise UserError(
                f"model_type ({self.hf_model.config.model_type!r}) does not keep documents of one row apart, as "
                "position_ids ask for: give each document a row of its own, or take a model_type such as 'gpt2'"
            )
        self._refuse_longer(input_ids.shape[1])
        return self._features(self.embed(input_ids), position_ids=position_ids)

    def read(self, vectors: Tensor, *, cache: Cache | None = None) -> Tensor:
        """See CausalVectorBackbone.

        Raises:
            UserError: If the vectors, after what the cache holds, end beyond ``max_seq_len``.
        """
        past = None if cache is None else cast(_Cache, cache).past
        self._refuse_longer(vectors.shape[1] + (0 if past is None else past.get_seq_length()))
        return self._features(vectors, past_key_values=past)

    def _features(self, vectors: Tensor, past_key_values: Any = None, position_ids: Tensor | None = None) -> Tensor:
        given = {} if position_ids is None else {"position_ids": position_ids}  # as not every model knows them
        features: Tensor = self.hf_model.base_model(
            inputs_embeds=vectors,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            **given,
        )[0]
        return features

    def embed(self, input_ids: Tensor) -> Tensor:
        """See CausalVectorBackbone."""
        embeds: Tensor = self.hf_model.get_input_embeddings()(input_ids)
        return embeds

    def hidden_states(self, input_ids: Tensor, layer: int) -> Tensor:
        """See CausalBackbone; the blocks after ``layer`` are not run.

        Raises:
            UserError: If ``layer`` is not in [0, num_layers].
        """
        if not 0 <= layer <= self.num_layers:
            raise UserError(f"layer ({layer}) must be between 0 and num_layers ({self.num_layers})")
        lists = (module for module in self.hf_model.base_model.modules() if isinstance(module, nn.ModuleList))
        blocks = next(blocks for blocks in lists if len(blocks) == self.num_layers)
        if layer == 0:
            hook = blocks[0].register_forward_pre_hook(lambda module, args: stop(args))
        else:
            hook = blocks[layer - 1].register_forward_hook(lambda module, args, output: stop(output))
        return stopped(hook, lambda: self.forward(input_ids))

    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """See CausalBackbone; it grows as needed: StaticCache is no faster, and its masks are wrong for ImageGPT."""
        from transformers import DynamicCache

        return _Cache(DynamicCache(config=self.hf_model.config))


class HuggingFaceCausalLM(_HuggingFaceCausal):
    """Any causal language model of transformers, https://huggingface.co/docs/transformers: GPT-2, Llama and so on.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' configuration, by their names there. With ``pretrained``, those to
            change in it; without, ``model_type`` and what differs from its defaults.
        vocab_size: Tokens it can predict; None for as many as the architecture says. Where that has more, as tables
            of the hub are often padded to a round size, only the first are used.
        max_seq_len: Longest input, in tokens, the start token included; None for what the architecture says.
        start_token: Adds a learned token that begins a sequence, for tasks that predict the first token too; its id
            is ``vocab_size``.
        lora: Trains low-rank adapters, and the start token, and keeps all other weights as they are; None trains all
            weights.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size), and vocab_size with ``start_token``
        - output: (B, T, D), D = embed_dim

    Raises:
        UserError: If no such model can be built or loaded, or its logits are not features times a matrix.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        architecture: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        max_seq_len: int | None = None,
        start_token: bool = False,
        lora: LoRA | None = None,
    ) -> None:
        """Builds the model, and loads its weights if there are any."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as MODELS

        super().__init__(MODELS, pretrained, architecture, vocab_size, max_seq_len, lora=lora)
        self.rebuild_config["init_args"]["start_token"] = start_token
        if start_token:
            width = self.hf_model.get_input_embeddings().weight.shape[1]
            self.start = nn.Parameter(torch.empty(width).normal_(std=0.02))
            self.start_id, self.pretrained = self.vocab_size, False

    def embed(self, input_ids: Tensor) -> Tensor:
        """See CausalVectorBackbone; the start token has an embedding of its own."""
        if self.start_id is None:
            return super().embed(input_ids)
        is_start = input_ids == self.start_id
        return torch.where(is_start[..., None], self.start, super().embed(input_ids.masked_fill(is_start, 0)))


class HuggingFaceImageGPT(_HuggingFaceCausal):
    """ImageGPT of transformers (Chen et al. 2020), https://huggingface.co/docs/transformers/model_doc/imagegpt.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' ImageGPTConfig, by their names there; its vocab_size counts the start
            token. With ``pretrained``, those to change in it; without, ``model_type: imagegpt`` and what differs from
            its defaults.
        vocab_size: Colours, the start token not included; None for all that the architecture has.
        max_seq_len: Longest input, in tokens, the start token included: one per pixel, as the last pixel is never an
            input. None for what the architecture says.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size), and start_id, which is the last row of the table
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
        """Builds the model, and loads its weights if there are any."""
        models = {"imagegpt": "ImageGPTForCausalImageModeling"}
        super().__init__(models, pretrained, architecture, vocab_size, max_seq_len, has_start=True)
        self.start_id = self.hf_model.config.vocab_size - 1


class _Cache:
    def __init__(self, past: Any) -> None:
        self.past = past

    def reorder(self, rows: Tensor) -> None:
        self.past.reorder_cache(rows)


class HuggingFaceMaskedLM(HuggingFaceLanguageBackbone, MaskedBackbone):
    """Any masked language model of transformers, https://huggingface.co/docs/transformers: BERT, RoBERTa and so on.

    Its features are what the head multiplies with the embeddings, so that they are behind the head's own layer.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' configuration, by their names there. With ``pretrained``, those to
            change in it; without, ``model_type`` and what differs from its defaults.
        vocab_size: Tokens it can predict; None for as many as the architecture says. Where that has more, as tables
            of the hub are often padded to a round size, only the first are used.
        max_seq_len: Longest input, in tokens; None for all that the model has positions for, which in RoBERTa's
            family begin behind that of the padding.
        lora: Trains low-rank adapters and keeps all other weights as they are; None trains all weights.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size)
        - attention_mask: (B, T), 1 for tokens, 0 for padding
        - output: (B, T, D), D = embed_dim

    Raises:
        UserError: If no such model can be built or loaded, or its logits are not features times a matrix
            or see the padding.
    """

    role = "a masked backbone"
    kind = "a masked language model of transformers, such as 'bert'"

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
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MODELS

        super().__init__(MODELS, pretrained, architecture, vocab_size, max_seq_len, lora=lora)

    @torch.no_grad()
    def _check(self) -> None:
        """Compares with the model's own logits, and a token before padding with one alone."""
        self.eval()
        input_ids = torch.arange(min(3, self.max_seq_len))[None] % self.vocab_size
        features = self(input_ids)
        if not self._agrees(features, **self._inputs(input_ids, None)):
            raise UserError("its logits are not features times a matrix")
        if self._sees_padding():
            raise UserError("its features see the padding behind a token")

    def forward(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
        """See MaskedBackbone; the logits are not computed.

        Raises:
            UserError: If the input is longer than ``max_seq_len``.
        """
        self._refuse_longer(input_ids.shape[1])
        hook = self.hf_model.get_output_embeddings().register_forward_pre_hook(lambda module, args: stop(args))
        return stopped(hook, lambda: self.hf_model(**self._inputs(input_ids, attention_mask)))


class _Stop(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def stop(output: Tensor | tuple[Tensor, ...]) -> NoReturn:
    """In a hook within ``stopped``: ends the forward with this, or the first of these."""
    raise _Stop(output if isinstance(output, Tensor) else output[0])


def stopped(hook: torch.utils.hooks.RemovableHandle, forward: Callable[[], object]) -> Tensor:
    """What the hook stops a forward with; nothing after it is computed."""
    try:
        with hook:
            forward()
    except _Stop as stopping:
        return stopping.hidden
    raise RuntimeError("the forward has not come to where it should stop")
