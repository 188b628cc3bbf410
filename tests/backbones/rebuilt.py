"""A backbone built anew as a checkpoint has it built."""

import json
from typing import Any

from jsonargparse import ArgumentParser

from lt_cli.backbones.base import PooledBackbone


def rebuilt(rebuild_config: dict[str, Any]) -> Any:
    """The backbone of a configuration of plain types, in eval mode."""
    assert json.loads(json.dumps(rebuild_config)) == rebuild_config
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PooledBackbone, "backbone")
    return parser.instantiate(parser.parse_object({"backbone": rebuild_config})).backbone.eval()
