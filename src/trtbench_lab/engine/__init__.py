"""Engines: built in a child process, kept in a content-keyed cache, verified before they are loaded.

The functions are imported here at once: were `build` looked up later, importing the module `build` would hide it.
"""

from .build import build, start_build
from .cache import list_cached, prune
from .events import BuildEvent
from .folder import Engine
from .job import BuildJob

__all__ = ["BuildEvent", "BuildJob", "Engine", "build", "list_cached", "prune", "start_build"]
