"""Where things are: from what a person types to a model folder, and from a request to an output folder."""

from __future__ import annotations

import re
from pathlib import Path

from ..demo import demo_model_dir
from ..errors import IntakeError, suggest
from ..progress import ProgressSink
from ..storage import digest_of_json, home_dir

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def model_dir_from(source: str, *, progress: ProgressSink | None = None) -> Path:
    """Return the local folder of a model: a demo, a folder, or a hub id that is fetched first.

    Parameters
    ----------
    source
        ``"demo"``, ``"demo:gpt2"``, ``"demo:llama"``, a folder, or ``"owner/name"`` on the hub.

    Raises
    ------
    IntakeError
        When it is none of these.
    DownloadError
        When a hub id cannot be fetched.
    """
    if source == "demo" or source.startswith("demo:"):
        return demo_model_dir(source.removeprefix("demo").removeprefix(":") or "gpt2")
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not HUB_ID.fullmatch(source) or source.startswith(("./", "../", "/")) or source.count("/") != 1:
        raise IntakeError(
            "There is no model folder here.",
            where=source,
            remedy=_nearby(path) or "Give a folder, 'demo:gpt2', or a hub id such as 'openai-community/gpt2'.",
        )
    from ..intake.hub import download

    return Path(download(source, progress=progress).directory)


def output_dir_for(verb: str, label: str, request: dict[str, object], chosen: str | None) -> Path:
    """Return the folder a step writes to: the one chosen, or one in the cache named after the request's content."""
    if chosen is not None:
        return Path(chosen).expanduser()
    digest = digest_of_json({"verb": verb, "request": request}).partition(":")[2][:12]
    return home_dir() / f"{verb.removesuffix('e')}ed" / f"{label}-{digest}"


def _nearby(path: Path) -> str | None:
    """Return a remedy that names the most similar folder beside a missing one."""
    if not path.parent.is_dir():
        return None
    nearest = suggest(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_dir()])
    return f"Did you mean {str(path.parent / nearest)!r}?" if nearest else None
