"""`build`: from a checkpoint or a model in memory to an engine folder, in a child process, or from the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import ProgressSink
from .dispatch import EventSink
from .folder import Engine
from .job import BuildJob
from .plan import plan_build

if TYPE_CHECKING:
    from ..backends.protocol import Builder
    from ..specs import BuildConfig


def build(
    model: Any,
    build_config: BuildConfig | Mapping[str, Any] | None = None,
    output_dir: Path | str | None = None,
    *,
    progress: ProgressSink | None = None,
    overwrite: bool = False,
    timeout_s: float | None = None,
    use_cache: bool = True,
    on_event: EventSink | None = None,
    builder: Builder | None = None,
    tokenizer_dir: Path | str | None = None,
    refit_from: Path | str | None = None,
) -> Engine:
    """Build an engine and return it; an engine of the same inputs is taken from the cache instead.

    The parameters are those of `start_build`. Ctrl-C cancels the build, leaves nothing behind and is raised on.

    Raises
    ------
    TrtbenchError
        For a mistake in the request, at once; for whatever stops the build; `BuildCancelled` when it was cancelled or
        ran out of its time.
    """
    job = start_build(
        model,
        build_config,
        output_dir,
        progress=progress,
        overwrite=overwrite,
        timeout_s=timeout_s,
        use_cache=use_cache,
        on_event=on_event,
        builder=builder,
        tokenizer_dir=tokenizer_dir,
        refit_from=refit_from,
    )
    try:
        return job.wait()
    except KeyboardInterrupt:
        job.cancel("The build was cancelled from the keyboard.")
        raise


def start_build(
    model: Any,
    build_config: BuildConfig | Mapping[str, Any] | None = None,
    output_dir: Path | str | None = None,
    *,
    progress: ProgressSink | None = None,
    overwrite: bool = False,
    timeout_s: float | None = None,
    use_cache: bool = True,
    on_event: EventSink | None = None,
    builder: Builder | None = None,
    tokenizer_dir: Path | str | None = None,
    refit_from: Path | str | None = None,
) -> BuildJob:
    """Start a build in the background and return its job.

    Parameters
    ----------
    model
        A checkpoint folder, or a model of `trtbench_lab` in memory; that one is saved into a scratch folder for the
        length of the build and must not be changed meanwhile.
    build_config
        Limits, plugins and backend; None takes the defaults.
    output_dir
        Where the engine shall be. None leaves it in the cache (``engines`` in the home folder). Files that come from
        the cache are hard links, or copies where the file system cannot link; `Engine.placement` says which.
    progress
        Called with phases and elapsed time, at most about ten times a second.
    overwrite
        Replace an engine in `output_dir`. A folder that holds something else is never replaced.
    timeout_s
        Seconds for the whole build, waiting included; None takes that of `build_config`.
    use_cache
        Take an engine that was built from the same inputs. Without it the engine is built anew, in `output_dir`
        alone where one is given.
    on_event
        Called with every `BuildEvent` (log lines and heartbeats throttled) from a thread of its own.
    builder
        Takes the place of the backend that `build_config` names; its class must be importable by the build process
        and take no arguments.
    tokenizer_dir
        Folder with the model's tokenizer, recorded in config.json; None records that of the source, where it is known.
    refit_from
        Folder of an engine built with ``refit`` (tensorrt) from a checkpoint of the same model: its plans are taken
        and get the weights of `model`, and nothing is timed or compiled. Its options are the engine's; others in
        `build_config` are refused.

    Raises
    ------
    TrtbenchError
        When the request itself cannot be served: no checkpoint, conflicting options, no such backend here.
    """
    plan = plan_build(
        model,
        build_config,
        output_dir,
        overwrite=overwrite,
        timeout_s=timeout_s,
        use_cache=use_cache,
        builder=builder,
        tokenizer_dir=tokenizer_dir,
        refit_from=refit_from,
    )
    return BuildJob(plan, progress=progress, on_event=on_event).start()
