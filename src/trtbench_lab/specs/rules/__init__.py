"""The rules between fields, by subject; importing this package registers all of them."""

from . import build, layout, plugins, quantization, requests, sampling

__all__ = ["build", "layout", "plugins", "quantization", "requests", "sampling"]
