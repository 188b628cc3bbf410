"""Models of Hugging Face transformers as backbones: one base with what they share, a small class for each role.

transformers takes a second to import, so the functions that need it import it themselves.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from textwrap import shorten
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import Cache, CausalBackbone
from lt_cli.errors import UserError, did_you_mean


class _HuggingFaceCausal(CausalBackbone):
    """What all causal models of transformers share; a subclass says which they are and what starts a sequence.

    Args:
        models: Names of the model classes by ``model_type``: those that the subclass accepts.
        has_start: Whether the last row of the embedding table is a start token, which ``vocab_size`` leaves out.
    """

    rebuild_config: dict[str, Any]

    def __init__(
        self,
        models: Mapping[str, str],
        pretrained: str | None,
        architecture: dict[str, Any] | None,
        vocab_size: int | None,
        max_seq_len: int | None,
        has_start: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("vocab_size", vocab_size), ("max_seq_len", max_seq_len)):
            if size is not None and size < 1:
                raise UserError(f"{name} ({size}) must be at least 1")
        rows = None if vocab_size is None else vocab_size + has_start
        sizes = {"vocab_size": rows, "max_position_embeddings": max_seq_len}
        config = _build_config(models, pretrained, architecture, sizes)
        self.model, self.pretrained = _build_model(models, pretrained, config)
        self.vocab_size = config.vocab_size - has_start
        self.start_id = self.vocab_size if has_start else None
        self.max_seq_len, self.num_layers = config.max_position_embeddings, config.num_hidden_layers
        init_args = {"pretrained": None, "architecture": _settings(config), "vocab_size": None, "max_seq_len": None}
        self.rebuild_config = {"class_path": f"{type(self).__module__}.{type(self).__name__}", "init_args": init_args}
        with _user_error(f"model_type ({config.model_type!r}) does not work as a causal backbone"):
            self.embed_dim = self.model.get_output_embeddings().weight.shape[1]
            self._check()
        self.train()  # from_pretrained returns eval mode, and Lightning would keep it

    @torch.no_grad()
    def _check(self) -> None:
        """Compares with the model's own logits, which see one token more and no cache, so that each fault shows."""
        self.eval()
        input_ids = torch.arange(min(3, self.max_seq_len))[None] % self.vocab_size
        cache = self.make_cache(1, self.max_seq_len)
        features = [self(input_ids[:, t : t + 1], cache=cache) for t in range(min(2, self.max_seq_len))]
        logits = 1000 * self.unembed(torch.cat(features, dim=1))
        # A soft cap is invisible on the small logits of fresh weights: enlarge them where the cap would come next.
        with self.model.get_output_embeddings().register_forward_hook(lambda module, args, output: 1000 * output):
            own = self.model(input_ids)[0][:, : len(features), : self.vocab_size]
        if (logits - own).abs().max() > 1e-3 * own.abs().max():
            raise UserError("its logits are not features times a matrix, or it needs later tokens or has no cache")
        self.hidden_states(input_ids, 0)
        self.hidden_states(input_ids, self.num_layers)

    def forward(self, input_ids: Tensor, *, cache: Cache | None = None) -> Tensor:
        """See CausalBackbone.

        Raises:
            UserError: If the input, after what the cache holds, ends beyond ``max_seq_len``.
        """
        past = None if cache is None else cast(_Cache, cache).past
        length = input_ids.shape[1] + (0 if past is None else past.get_seq_length())
        if length > self.max_seq_len:
            raise UserError(
                f"the sequence's length ({length} tokens) must not exceed the backbone's max_seq_len "
                f"({self.max_seq_len}): shorten it, or train with --model.backbone.init_args.max_seq_len={length}"
            )
        embeds, use_cache = self._embed(input_ids), past is not None
        features: Tensor = self.model.base_model(inputs_embeds=embeds, past_key_values=past, use_cache=use_cache)[0]
        return features

    def _embed(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeds

    def hidden_states(self, input_ids: Tensor, layer: int) -> Tensor:
        """See CausalBackbone; the blocks after ``layer`` are not run.

        Raises:
            UserError: If ``layer`` is not in [0, num_layers].
        """
        if not 0 <= layer <= self.num_layers:
            raise UserError(f"layer ({layer}) must be between 0 and num_layers ({self.num_layers})")
        lists = (module for module in self.model.base_model.modules() if isinstance(module, nn.ModuleList))
        blocks = next(blocks for blocks in lists if len(blocks) == self.num_layers)
        if layer == 0:
            hook = blocks[0].register_forward_pre_hook(lambda module, args: _stop(args))
        else:
            hook = blocks[layer - 1].register_forward_hook(lambda module, args, output: _stop(output))
        try:
            with hook:
                return self.forward(input_ids)  # never returns: the hook raises
        except _Stop as stop:
            return stop.hidden

    def output_matrix(self) -> tuple[Tensor, Tensor | None]:
        """See TokenBackbone."""
        head = self.model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[: self.vocab_size]
        return head.weight[: self.vocab_size], bias  # a head that is tied to the table may have the start token's row

    def make_cache(self, batch_size: int, max_len: int) -> Cache:
        """See CausalBackbone; it grows as needed: StaticCache is no faster, and its masks are wrong for ImageGPT."""
        from transformers import DynamicCache

        return _Cache(DynamicCache(config=self.model.config))


class HuggingFaceCausalLM(_HuggingFaceCausal):
    """Any causal language model of transformers, https://huggingface.co/docs/transformers: GPT-2, Llama and so on.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' configuration, by their names there. With ``pretrained``, those to
            change in it; without, ``model_type`` and what differs from its defaults.
        vocab_size: Tokens it can predict; None leaves it to the architecture.
        max_seq_len: Longest input, in tokens, the start token included; None leaves it to the architecture.
        start_token: Adds a learned token that begins a sequence, for tasks that predict the first token too; its id
            is ``vocab_size``.

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
    ) -> None:
        """Builds the model, and loads its weights if there are any."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as MODELS

        super().__init__(MODELS, pretrained, architecture, vocab_size, max_seq_len)
        self.rebuild_config["init_args"]["start_token"] = start_token
        if start_token:
            width = self.model.get_input_embeddings().weight.shape[1]
            self.start = nn.Parameter(torch.empty(width).normal_(std=0.02))
            self.start_id, self.pretrained = self.vocab_size, False

    def _embed(self, input_ids: Tensor) -> Tensor:
        if self.start_id is None:
            return super()._embed(input_ids)
        is_start = input_ids == self.start_id
        return torch.where(is_start[..., None], self.start, super()._embed(input_ids.masked_fill(is_start, 0)))


class HuggingFaceImageGPT(_HuggingFaceCausal):
    """ImageGPT of transformers (Chen et al. 2020), https://huggingface.co/docs/transformers/model_doc/imagegpt.

    Args:
        pretrained: Name on the Hugging Face hub or local directory of the weights; None draws them at random.
        architecture: Settings of transformers' ImageGPTConfig, by their names there; its vocab_size counts the start
            token. With ``pretrained``, those to change in it; without, ``model_type: imagegpt`` and what differs from
            its defaults.
        vocab_size: Colours, the start token not included; None leaves them to the architecture.
        max_seq_len: Longest input, in tokens, the start token included: one per pixel, as the last pixel is never an
            input. None leaves it to the architecture.

    Shape:
        - input_ids: (B, T), int64 in [0, vocab_size], where vocab_size is the start token
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


class _Cache:
    def __init__(self, past: Any) -> None:
        self.past = past

    def reorder(self, rows: Tensor) -> None:
        self.past.reorder_cache(rows)


class _Stop(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _stop(output: Tensor | tuple[Tensor, ...]) -> NoReturn:
    raise _Stop(output if isinstance(output, Tensor) else output[0])


@contextmanager
def _user_error(problem: str) -> Iterator[None]:
    """Says in one line what transformers raises, which may be any exception, over many lines."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{problem}: {shorten(str(error) or type(error).__name__, 250)}") from error


def _known(config_class: Any) -> set[str]:
    """The settings of a configuration; it would swallow any other. The dtype is the trainer's precision instead."""
    from transformers import PreTrainedConfig

    return (set(signature(config_class).parameters) | set(PreTrainedConfig().to_dict())) - {"dtype", "kwargs"}


def _settings(config: Any) -> dict[str, Any]:
    """All that builds ``config`` again, in plain types."""
    known = _known(type(config)) - {"_name_or_path", "transformers_version"}
    return {key: value for key, value in json.loads(json.dumps(config.to_dict())).items() if key in known}


def _build_config(
    models: Mapping[str, str], pretrained: str | None, architecture: dict[str, Any] | None, sizes: dict[str, int | None]
) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    if pretrained is None and architecture is None:
        raise UserError(
            "pretrained and architecture are both None, at least one is required: add "
            "--model.backbone.init_args.pretrained=NAME or --model.backbone.init_args.architecture.model_type=TYPE"
        )
    settings, changes = {}, dict(architecture or {})
    if pretrained is not None:
        with _user_error(f"pretrained ({pretrained!r}) must be a local directory or a name on a hub within reach"):
            settings = _settings(AutoConfig.from_pretrained(pretrained, trust_remote_code=False))
    model_type = changes.setdefault("model_type", settings.get("model_type"))
    if model_type != settings.get("model_type", model_type):
        raise UserError(f"architecture.model_type ({model_type!r}) must be that of the weights in {pretrained!r}")
    if model_type not in models:
        rule = repr(*models) if len(models) == 1 else "a causal language model of transformers, such as 'gpt2'"
        raise UserError(
            f"architecture.model_type ({model_type!r}) must be {rule}{did_you_mean(str(model_type), models)}"
        )
    known, names = _known(CONFIG_MAPPING[model_type]), CONFIG_MAPPING[model_type].attribute_map
    for key in sorted(changes.keys() - known - names.keys()):
        raise UserError(f"architecture.{key} is no setting of model_type {model_type!r}{did_you_mean(key, known)}")
    changes = {names.get(key, key): value for key, value in changes.items()}
    for name, size in sizes.items():
        key = names.get(name, name)
        if key not in known:
            raise UserError(f"model_type ({model_type!r}) has no setting {key}, which a causal backbone needs")
        if size is not None and changes.setdefault(key, size) != size:
            rule = f"must be {size}, as the backbone's argument for it says, or be left out"
            raise UserError(f"architecture.{key} ({changes[key]}) {rule}")
    if pretrained is None:
        # The data owns the special ids; defaults may lie outside the vocabulary, and a pad id's row gets no gradient.
        settings = dict.fromkeys({"bos_token_id", "eos_token_id", "pad_token_id"} & known)
    with _user_error(f"the architecture for model_type {model_type!r} is not valid"):
        return AutoConfig.for_model(**settings | changes)


def _build_model(models: Mapping[str, str], pretrained: str | None, config: Any) -> tuple[Any, bool]:
    """The model, and whether all its weights were loaded."""
    import transformers

    model_class = getattr(transformers, models[config.model_type])
    if pretrained is None:
        with _user_error(f"the architecture for model_type {config.model_type!r} is not valid"):
            return model_class(config), False
    with _user_error(f"the weights of pretrained ({pretrained!r}) cannot be loaded"):
        model, info = model_class.from_pretrained(
            pretrained,
            config=config,
            dtype=torch.get_default_dtype(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    for key, loaded, asked in info["mismatched_keys"]:
        raise UserError(
            f"the weights in {pretrained!r} have {key} of shape {tuple(loaded)}, but vocab_size, max_seq_len and "
            f"architecture make it {tuple(asked)}: leave these out, or train from scratch with pretrained=null"
        )
    return model, not info["missing_keys"]
