"""The request for a model from a hub."""

from __future__ import annotations

from ..options import option
from ..spec import Spec
from .shared import name_option


class DownloadSpec(Spec):
    """Fetch a model from a hub."""

    model: str = option(
        help="Id of the model on the hub, for example 'gpt2-medium'.",
        flags=("--repo_id",),
        metavar="MODEL",
        positional=0,
        group="model",
    )
    files: tuple[str, ...] = option(
        default=(),
        help="Files wanted; none means what a conversion needs.",
        positional=1,
        nargs="+",
        metavar="FILE",
        group="model",
    )
    revision: str | None = option(
        default=None, help="Branch, tag or commit; none means the main branch. The commit is recorded.", group="model"
    )
    local_dir: str | None = option(
        default=None,
        help="Folder to fill; none means a folder of this project's cache.",
        flags=("--output_dir",),
        metavar="DIR",
        group="output",
    )
    include: tuple[str, ...] = option(
        default=(), help="Patterns of files to fetch.", nargs="+", metavar="PATTERN", group="model"
    )
    exclude: tuple[str, ...] = option(
        default=(), help="Patterns of files to leave out.", nargs="+", metavar="PATTERN", group="model"
    )
    mirror: str | None = option(
        default=None,
        help="Address of a mirror of the hub; none means $HF_ENDPOINT or the hub itself.",
        flags=("--endpoint", "--hf_endpoint"),
        metavar="URL",
        group="hub",
    )
    token: str | None = option(
        default=None,
        help="Access token of a gated model; none means $HF_TOKEN.",
        secret=True,
        metavar="TOKEN",
        group="hub",
    )
    max_workers: int = option(default=8, help="Files fetched at the same time.", minimum=1, group="hub")
    name: str | None = name_option()
