"""What data and a backbone over tokens must have alike."""

from lt_cli.backbones.base import Backbone, CausalBackbone, LanguageBackbone, TokenBackbone
from lt_cli.data.base import DataModule, PictureData


def token_sizes(backbone: Backbone, data: DataModule) -> list[str]:
    """Vocabulary, length and width of pictures that differ, each with the override to add; none for other backbones."""
    if not isinstance(backbone, TokenBackbone):
        return []
    found = []
    option = f"--model.backbone.init_args.{backbone.sizes_at}"
    tokens, known = data.vocab_size, backbone.vocab_size
    # what predicts tokens must not predict more than there are; what reads them only may know more
    if tokens is not None and (tokens > known or (tokens != known and isinstance(backbone, LanguageBackbone))):
        found.append(
            f"the data has {tokens} tokens, the backbone a vocabulary of {known}: add {option}vocab_size={tokens}"
        )
    if data.max_seq_len is not None and data.max_seq_len > backbone.max_seq_len:
        found.append(
            f"the data has sequences of {data.max_seq_len} tokens, the backbone takes {backbone.max_seq_len}: "
            f"add {option}max_seq_len={data.max_seq_len}"
        )
    width = data.image_shape[1] if isinstance(data, PictureData) and data.image_shape is not None else None
    if isinstance(backbone, CausalBackbone) and backbone.grid_width not in (None, width):
        found.append(
            f"the data has {'no pictures' if width is None else f'pictures {width} wide'}, the backbone a grid of "
            f"{backbone.grid_width}: add {option}grid_width={'null' if width is None else width}"
        )
    return found
