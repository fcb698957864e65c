"""Every plugin of the project, by name: what backends register, exporters look functions up in, and docs list."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TYPE_CHECKING

from .frame import Plugin

if TYPE_CHECKING:
    from ..specs import PluginConfig

# Modules whose `PLUGINS` are the project's plugins: a new file is added here.
MODULES = ("matmul.plugins", "norms", "quantizing", "gated", "lookup", "gpt_attention")


@lru_cache(maxsize=1)
def all_plugins() -> dict[str, Plugin]:
    """Return name → plugin."""
    found: dict[str, Plugin] = {}
    for module in MODULES:
        for plugin in importlib.import_module(f"{__package__}.{module}").PLUGINS:
            found[plugin.name] = plugin
    return found


def plugins_by_op_type() -> dict[str, Plugin]:
    """Return op type of an ONNX node → plugin."""
    return {plugin.op_type: plugin for plugin in all_plugins().values()}


def plugins_for(config: PluginConfig) -> list[Plugin]:
    """Return the plugins that one of its switches in `config` turns on (or leaves to the backend)."""
    return [one for one in all_plugins().values() if any(config.enabled(switch) for switch in one.switches)]
