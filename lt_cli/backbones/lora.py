"""LoRA: small matrices that train beside weights that do not."""

import re
import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn

from lt_cli.backbones.hf_build import user_error
from lt_cli.errors import UserError, did_you_mean


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685): W x + alpha / rank * B A x; W stays.

    Args:
        rank: Rows of A and columns of B, at least 1.
        alpha: What the product is scaled with, over ``rank``; above 0.
        dropout: Probability in [0, 1) of dropping an input of A.
        target_modules: Last parts of the names of the layers that get it, such as ``c_attn``, a regular expression for
            whole names, or ``all-linear`` for all but the output layer; None for the layers of attention that peft
            chooses for the architecture.

    Raises:
        UserError: If a number is out of its range.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: list[str] | str | None = None

    def __post_init__(self) -> None:
        """Checks the numbers; names are looked up in the model."""
        if self.rank < 1:
            raise UserError(f"lora.rank ({self.rank}) must be at least 1")
        if not self.alpha > 0:
            raise UserError(f"lora.alpha ({self.alpha}) must be above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout ({self.dropout}) must be at least 0 and below 1")


def add_lora(model: Any, lora: LoRA) -> None:
    """Puts the matrices into a model of transformers and stops all other gradients.

    Raises:
        UserError: If a target is not there, is the output layer, or is of a kind that LoRA does not know.
    """
    from peft import LoraConfig, inject_adapter_in_model

    _check_targets(model, lora.target_modules)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules
    )
    with user_error(f"lora.target_modules ({lora.target_modules}) cannot be adapted"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # peft finds out by itself which way a weight lies
        inject_adapter_in_model(config, model)


def _check_targets(model: Any, targets: list[str] | str | None) -> None:
    """Looks up each name, where peft is content with one of them."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    model_type, head = model.config.model_type, model.get_output_embeddings()
    modules = {name: module for name, module in model.named_modules() if name}
    layers = (name for name, module in modules.items() if _is_layer(module) and module is not head)
    there = sorted({name.rpartition(".")[2] for name in layers})
    choice = f"there are {', '.join(there)}, and all-linear"
    if targets is None and model_type not in KNOWN:
        raise UserError(f"lora.target_modules must be given, as peft chooses none for {model_type!r}: {choice}")
    if targets is None or targets == "all-linear":
        return
    if not targets:
        raise UserError(f"lora.target_modules ({targets}) must name at least one layer of {model_type!r}: {choice}")
    for target in [targets] if isinstance(targets, str) else targets:
        with user_error(f"lora.target_modules ({target!r}) is no regular expression"):
            pattern = re.compile(targets if isinstance(targets, str) else rf"(.*\.)?{re.escape(target)}")
        found = [module for name, module in modules.items() if pattern.fullmatch(name)]
        if not found:
            raise UserError(
                f"lora.target_modules: {target!r} names no layer of {model_type!r}: {choice}"
                f"{did_you_mean(target, there)}"
            )
        if head in found:
            raise UserError(f"lora.target_modules: {target!r} is the output layer, which must stay as it is: {choice}")


def _is_layer(module: nn.Module) -> bool:
    """Whether it is one of the kinds of layer that models of transformers have and LoRA knows."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | nn.Embedding | Conv1D)
