"""Request that makes an engine from a checkpoint."""

from __future__ import annotations

from ..build import BuildConfig
from ..options import option
from ..spec import Spec
from .shared import DEMO_HELP, name_option, output_dir_option, overwrite_option


class BuildSpec(Spec):
    """Build an engine from a checkpoint."""

    checkpoint_dir: str = option(
        help=f"Folder of the checkpoint, or of a Hugging Face model, which is converted first; {DEMO_HELP}.",
        flags=("--model_dir", "--checkpoint"),
        metavar="DIR",
        positional=0,
        group="engine",
    )
    output_dir: str | None = output_dir_option(
        "--engine_dir", help="Folder of the engine; none means one in this project's cache."
    )
    build_config: BuildConfig = option(factory=BuildConfig, help="Limits and options of the build.", group="build")
    world_size: int | None = option(
        default=None,
        help="Number of ranks expected; a checkpoint with another number is refused.",
        minimum=1,
        group="engine",
    )
    refit_from: str | None = option(
        default=None,
        help="Folder of an engine built with refit: its plans are taken and get this checkpoint's weights (tensorrt).",
        metavar="DIR",
        group="engine",
        effect="Nothing is timed or compiled; options of the build are the engine's, and the model must be the same "
        "but for its weights.",
    )
    overwrite: bool = overwrite_option()
    name: str | None = name_option()
