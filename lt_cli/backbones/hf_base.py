"""What all models of Hugging Face transformers share as backbones: names, sizes, how they are rebuilt."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lt_cli.backbones.base import Backbone, TokenBackbone
from lt_cli.backbones.hf_build import SIZE_SETTINGS, build_config, build_model, settings_of, user_error
from lt_cli.backbones.lora import LoRA, add_lora
from lt_cli.errors import UserError


class HuggingFaceModel(Backbone):
    """A model of transformers whose parts have the names that they have on the hub, such as ``transformer.h.0``.

    Args:
        models: Names of the model classes by ``model_type``: those that the subclass accepts.
        pretrained: Name on the Hugging Face hub or local directory of the weights, or None.
        architecture: Settings of transformers' configuration, or None.
        sizes: Least values of ``vocab_size`` and ``max_position_embeddings``; None leaves one to the architecture.
        lora: Adapters, which then alone train, or None.

    Attributes:
        role: What the model is to be, such as "a causal backbone", for messages.
        kind: Which models may be it, such as "a causal language model of transformers", for messages.
        optional_sizes: Of ``sizes``, what an architecture may have no setting for.
        size_settings: What of the backbone's arguments says the shapes of weights, for messages.
    """

    role: ClassVar[str]
    kind: ClassVar[str]
    optional_sizes: ClassVar[frozenset[str]] = frozenset()
    size_settings: ClassVar[str] = SIZE_SETTINGS
    rebuild_config: dict[str, Any]
    _hf_model: Any

    def __init__(
        self,
        models: Mapping[str, str],
        pretrained: str | None,
        architecture: dict[str, Any] | None,
        sizes: dict[str, int | None],
        lora: LoRA | None,
    ) -> None:
        """Builds the model, and loads its weights if there are any."""
        super().__init__()
        config = build_config(self.kind, models, pretrained, architecture, sizes, self.optional_sizes)
        model, drawn = build_model(models, pretrained, config, self.size_settings)
        drawn = self._fit(model, drawn)
        self.pretrained = not drawn and lora is None
        if lora is not None:
            self._adapt(model, lora, drawn)
        self._hold(model)
        init_args: dict[str, Any] = {"pretrained": _lasting(pretrained) if self.given else None}
        init_args |= {"architecture": settings_of(config)}
        if lora is not None:
            init_args["lora"] = asdict(lora)
        self.rebuild_config = {"class_path": f"{type(self).__module__}.{type(self).__name__}", "init_args": init_args}

    def _fit(self, model: Any, drawn: set[str]) -> set[str]:
        """Makes the model what the backbone needs, before it gets adapters; returns what of its weights is random."""
        return drawn

    def _adapt(self, model: Any, lora: LoRA, drawn: set[str]) -> None:
        """Adds the adapters; weights that were loaded then never change, and whoever loads them again has them."""
        loaded = {name: weight for name, weight in model.state_dict().items() if name not in drawn}
        self.given_fingerprint = _fingerprint(loaded.values()) if loaded else None
        add_lora(model, lora)
        named = model.named_parameters(remove_duplicate=False)
        frozen = (name for name, parameter in named if not parameter.requires_grad)
        self.given = frozenset(name for name in frozen if name.replace(".base_layer.", ".") in loaded)

    def _hold(self, model: Any) -> None:
        """Registers the model's children in place of the model, whose own name would stand before theirs."""
        own = [*model.named_parameters(recurse=False), *model.named_buffers(recurse=False)]
        taken = [name for name, _ in model.named_children() if hasattr(self, name)]
        if found := [*(name for name, _ in own), *taken]:
            rule = "weights belong in modules, and modules not to be called like parts of a backbone"
            raise UserError(f"model_type ({model.config.model_type!r}) has {found[0]} at its top level, where {rule}")
        self.__dict__["_hf_model"] = model
        for name, child in model.named_children():
            self.add_module(name, child)
        self.register_load_state_dict_pre_hook(_read_earlier_names)  # type: ignore[no-untyped-call]

    @property
    def hf_model(self) -> Any:
        """The model of transformers itself, made of the same modules."""
        model = self._hf_model
        model.training = self.training  # it is no submodule, which train() and eval() would reach
        return model


class HuggingFaceBackbone(HuggingFaceModel, TokenBackbone):
    """A model of transformers over tokens.

    Args:
        models: Names of the model classes by ``model_type``: those that the subclass accepts.
        pretrained: Name on the Hugging Face hub or local directory of the weights, or None.
        architecture: Settings of transformers' configuration, or None.
        vocab_size: Tokens it can predict, the first rows of the table; None for all.
        max_seq_len: Longest input, in tokens; None for all that the architecture has positions for.
        has_start: Whether the last row of the embedding table is a start token, which ``vocab_size`` leaves out.
        lora: Adapters, which then alone train, or None.
    """

    _padding: int | None

    def __init__(
        self,
        models: Mapping[str, str],
        pretrained: str | None,
        architecture: dict[str, Any] | None,
        vocab_size: int | None,
        max_seq_len: int | None,
        has_start: bool = False,
        lora: LoRA | None = None,
    ) -> None:
        """Builds the model, loads its weights if there are any, and tries it out."""
        for name, size in (("vocab_size", vocab_size), ("max_seq_len", max_seq_len)):
            if size is not None and size < 1:
                raise UserError(f"{name} ({size}) must be at least 1")
        rows = None if vocab_size is None else vocab_size + has_start
        sizes = {"vocab_size": rows, "max_position_embeddings": max_seq_len}
        super().__init__(models, pretrained, architecture, sizes, lora)
        config = self.hf_model.config
        self.vocab_size = config.vocab_size - has_start if vocab_size is None else vocab_size
        self.max_seq_len = self._longest(max_seq_len)
        self.rebuild_config["init_args"] |= {"vocab_size": self.vocab_size, "max_seq_len": self.max_seq_len}
        with user_error(f"model_type ({config.model_type!r}) does not work as {self.role}"):
            self.embed_dim = self._width()
            self._check()
        self.train()  # from_pretrained returns eval mode, and Lightning would keep it

    def _longest(self, max_seq_len: int | None) -> int:
        """Tokens that the model has positions for; RoBERTa and its kin count them from behind the padding's."""
        tables = [part for name, part in self.named_modules() if name.endswith("position_embeddings")]
        self._padding = next((table.padding_idx for table in tables if isinstance(table, nn.Embedding)), None)
        rows = self.hf_model.config.max_position_embeddings
        positions = int(rows - (0 if self._padding is None else self._padding + 1))
        if positions < (max_seq_len or 1):
            raise UserError(
                f"max_seq_len ({max_seq_len}) must be at most {positions}, as positions begin behind pad_token_id "
                f"({self._padding}): make it less, or have architecture.max_position_embeddings exceed {rows}"
            )
        return max_seq_len or positions

    @abstractmethod
    def _width(self) -> int:
        """Width of the features."""

    @abstractmethod
    def _check(self) -> None:
        """Raises any exception where the model does not do what the seam says."""

    def _refuse_longer(self, length: int) -> None:
        if length > self.max_seq_len:
            raise UserError(
                f"the sequence's length ({length} tokens) must not exceed the backbone's max_seq_len "
                f"({self.max_seq_len}): shorten it, or train with --model.backbone.init_args.max_seq_len={length}"
            )

    def _inputs(self, input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Tensor]:
        """With the positions said, as RoBERTa would take all tokens with its padding's id for padding."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        if self._padding is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        else:
            position_ids = self._padding + mask.cumsum(dim=1) * mask
        inputs = {"input_ids": input_ids, "position_ids": position_ids}
        return inputs if attention_mask is None else inputs | {"attention_mask": mask}

    def _sees_padding(self) -> bool:
        """Whether the features of a token before padding are others than those of the token alone."""
        input_ids = torch.arange(min(3, self.max_seq_len))[None] % self.vocab_size
        mask = torch.ones_like(input_ids)
        mask[:, 1:] = 0
        first = self(input_ids[:, :1])
        return bool((self(input_ids, attention_mask=mask)[:, :1] - first).abs().max() > 1e-3 * first.abs().max())


def _lasting(pretrained: str | None) -> str | None:
    """The name of weights wherever a run goes on: whole where it is a directory."""
    return str(Path(pretrained).absolute()) if pretrained is not None and Path(pretrained).is_dir() else pretrained


def _fingerprint(weights: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _read_earlier_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Renames the weights of checkpoints that have the model's own name before those of its parts."""
    for name in [name for name in module.state_dict() if prefix + name not in state_dict]:
        if (earlier := f"{prefix}model.{name}") in state_dict:
            state_dict[prefix + name] = state_dict.pop(earlier)
