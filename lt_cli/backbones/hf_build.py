"""Configurations and models of Hugging Face transformers from what a user says, and what is wrong with it.

transformers takes a second to import, so the functions that need it import it themselves.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from lt_cli.errors import UserError, did_you_mean

UNDECLARED = {
    "t5": {"decoder_start_token_id", "n_positions", "scale_decoder_outputs"},
    "longt5": {"decoder_start_token_id", "n_positions", "scale_decoder_outputs"},
    "mt5": {"n_positions"},
    "umt5": {"n_positions"},
}
"""Settings that files of the hub have, and models read, but configurations do not declare."""

SIZE_SETTINGS = "vocab_size, max_seq_len and architecture"
"""What says the shapes of a token backbone's weights."""


@contextmanager
def user_error(problem: str) -> Iterator[None]:
    """Says in one line what transformers raises, which may be any exception, over many lines."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{problem}: {shorten(str(error) or type(error).__name__, 250)}") from error


def _known(config_class: Any) -> set[str]:
    """The settings of a configuration; it would swallow any other. The dtype is the trainer's precision instead."""
    from transformers import PreTrainedConfig

    declared = set(signature(config_class).parameters) | set(PreTrainedConfig().to_dict())
    return (declared | UNDECLARED.get(config_class.model_type, set())) - {"dtype", "kwargs"}


def settings_of(config: Any) -> dict[str, Any]:
    """All that builds ``config`` again, in plain types."""
    known = _known(type(config)) - {"_name_or_path", "transformers_version"}
    return {key: value for key, value in json.loads(json.dumps(config.to_dict())).items() if key in known}


def build_config(
    kind: str,
    models: Mapping[str, str],
    pretrained: str | None,
    architecture: dict[str, Any] | None,
    sizes: dict[str, int | None],
    optional: frozenset[str] = frozenset(),
) -> Any:
    """The configuration of a model that holds at least what ``sizes`` ask for.

    Args:
        kind: What they are, for the message.
        models: Names of the model classes by ``model_type``: those that may be built.
        pretrained: Where the weights are, or None.
        architecture: What the user says of the configuration.
        sizes: Least values of ``vocab_size`` and ``max_position_embeddings``; None leaves one to the architecture.
        optional: Those that an architecture may have no setting for.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    if pretrained is None and architecture is None:
        raise UserError(
            "pretrained and architecture are both None, at least one is required: add "
            "--model.backbone.init_args.pretrained=NAME or --model.backbone.init_args.architecture.model_type=TYPE; in "
            "VideoText, --model.backbone.init_args.text.init_args.pretrained=NAME"
        )
    settings, changes = {}, dict(architecture or {})
    if pretrained is not None:
        if Path(pretrained).is_absolute() and not Path(pretrained).is_dir():
            raise UserError(
                f"pretrained ({pretrained!r}) must be a local directory or a name on a hub within reach: "
                "there is no such directory; say where it is with --model.backbone.init_args.pretrained=DIRECTORY; in "
                "VideoText, --model.backbone.init_args.text.init_args.pretrained=DIRECTORY"
            )
        with user_error(f"pretrained ({pretrained!r}) must be a local directory or a name on a hub within reach"):
            settings = settings_of(AutoConfig.from_pretrained(pretrained, trust_remote_code=False))
    model_type = changes.setdefault("model_type", settings.get("model_type"))
    if model_type != settings.get("model_type", model_type):
        raise UserError(f"architecture.model_type ({model_type!r}) must be that of the weights in {pretrained!r}")
    if model_type not in models:
        rule = repr(*models) if len(models) == 1 else kind
        raise UserError(
            f"architecture.model_type ({model_type!r}) must be {rule}{did_you_mean(str(model_type), models)}"
        )
    known, names = _known(CONFIG_MAPPING[model_type]), CONFIG_MAPPING[model_type].attribute_map
    for key in sorted(changes.keys() - known - names.keys()):
        raise UserError(f"architecture.{key} is no setting of model_type {model_type!r}{did_you_mean(key, known)}")
    changes = {names.get(key, key): value for key, value in changes.items()}
    for name, size in sizes.items():
        key = names.get(name, name)
        if key not in known and name in optional:
            continue
        if key not in known:
            raise UserError(f"model_type ({model_type!r}) has no setting {key}, which a backbone over tokens needs")
        said = changes.get(key, settings.get(key))
        if size is None or (isinstance(said, int) and size <= said):
            continue  # rows beyond those asked for stay unused, as in models whose table is padded to a round size
        if said is not None and (key in changes or name == "vocab_size"):
            where = f"architecture.{key}" if key in changes else f"{key} of the weights in {pretrained!r}"
            raise UserError(f"{where} ({said}) must be at least {size}, as the backbone's argument for it says")
        changes[key] = size
    if pretrained is None:
        # The data owns the special ids; defaults may lie outside the vocabulary, and a pad id's row gets no gradient.
        settings = dict.fromkeys({"bos_token_id", "eos_token_id", "pad_token_id"} & known)
        settings |= {"decoder_start_token_id": 0} if "decoder_start_token_id" in known else {}
    with user_error(f"the architecture for model_type {model_type!r} is not valid"):
        return AutoConfig.for_model(**settings | changes)


def build_model(
    models: Mapping[str, str], pretrained: str | None, config: Any, size_settings: str = SIZE_SETTINGS
) -> tuple[Any, set[str]]:
    """The model, and the names of its weights that were drawn at random; the last is what says their shapes."""
    import transformers

    model_class = getattr(transformers, models[config.model_type])
    # no role reads what a pooler makes, and weights that get no gradient stop DDP
    unread = {"add_pooling_layer"} & signature(model_class).parameters.keys()
    options = dict.fromkeys(unread, False)
    if pretrained is None:
        with user_error(f"the architecture for model_type {config.model_type!r} is not valid"):
            model = model_class(config, **options)
        return model, set(model.state_dict())
    with user_error(f"the weights of pretrained ({pretrained!r}) cannot be loaded"), _nothing_said_of_unused_weights():
        model, info = model_class.from_pretrained(
            pretrained,
            **options,
            config=config,
            dtype=torch.get_default_dtype(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    for key, loaded, asked in info["mismatched_keys"]:
        raise UserError(
            f"the weights in {pretrained!r} have {key} of shape {tuple(loaded)}, but "
            f"{size_settings} make it {tuple(asked)}: leave these out, or train from scratch with pretrained=null"
        )
    drawn = set(info["missing_keys"])
    if drawn.issuperset(name for name, _ in model.named_parameters()):
        raise UserError(
            f"the weights in {pretrained!r} are none of {model_class.__name__}'s, whose first is "
            f"{next(iter(model.state_dict()))}: name a directory that holds them, or train from scratch with "
            "pretrained=null"
        )
    return model, drawn


@contextmanager
def _nothing_said_of_unused_weights() -> Iterator[None]:
    """Drops transformers' report where all that it lists are weights of heads and poolers that are not built."""
    logger = logging.getLogger("transformers.modeling_utils")

    def tells_more(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "LOAD REPORT" not in message or any(word in message for word in ("MISSING", "MISMATCH", "CONVERSION"))

    logger.addFilter(tells_more)
    try:
        yield
    finally:
        logger.removeFilter(tells_more)
