"""The steps of a build, in order: key, cache, locks, workers, seal, placement. Runs in the job's thread."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import BuildCancelled, FolderInUseError, StorageError, TrtbenchError
from ..storage import folder_lock, staged_folder, storage_error
from .cache import find_cached
from .config import EngineConfig, read_engine_config
from .folder import Engine
from .key import content_key
from .monitor import BuildMonitor
from .names import LOG_NAME, TIMING_CACHE_NAME
from .places import entry_dir, is_in_cache, scratch_dir
from .plan import BuildPlan
from .seal import seal_engine
from .supervise import run_workers
from .transfer import copy_engine, refuse_replacing
from .verify import verify_files
from .workload import ranks_by_worker

_LOOK_AGAIN_S = 0.25


def make_engine(plan: BuildPlan, monitor: BuildMonitor) -> Engine:
    """Return the engine of a plan: taken where it is already there, built otherwise.

    Raises
    ------
    TrtbenchError
        For whatever stops the build; no folder is left half-made.
    """
    for note in plan.notes:
        monitor.note(note)
    with ExitStack() as stack:
        if plan.output_dir is not None:
            stack.enter_context(folder_lock(plan.output_dir))
        source = stack.enter_context(_source_checkpoint(plan, monitor))
        with monitor.phase("look for an engine of the same inputs"):
            refitted = plan.refit_from.key if plan.refit_from is not None else None
            key = content_key(source.digest, plan.model_config, plan.build_config, plan.builder, refitted=refitted)
            engine = _already_there(plan, source, key, monitor)
        if engine is None and plan.output_dir is not None:
            refuse_replacing(plan.output_dir, overwrite=plan.overwrite)
        if engine is None and plan.output_dir is not None and not plan.use_cache:
            with staged_folder(plan.output_dir, overwrite=plan.overwrite) as staging:
                config = _build_into(staging, plan.output_dir, plan, source, key, monitor)
            engine = Engine(plan.output_dir, config, placement="Built in place; the cache was not used.")
        if engine is None:
            engine = _through_cache(plan, source, key, monitor)
    # A backend of the registry is looked up again when it is needed; one that the caller brought is not there.
    return engine.with_builder(plan.builder) if plan.builder_path is not None else engine


class _Source:
    """The checkpoint that workers read, and what config.json records of it."""

    def __init__(self, directory: Path, tokenizer_dir: str | None, *, in_memory: bool = False):
        from ..checkpoint.reader import open_checkpoint

        self.directory = directory
        self.in_memory = in_memory
        self.digest = open_checkpoint(directory).digest
        self.tokenizer_dir = tokenizer_dir
        self.record: dict[str, Any] = {"directory": None if in_memory else str(directory), "digest": self.digest}

    def of_this_request(self, config: EngineConfig, plan: BuildPlan) -> EngineConfig:
        """Return an earlier build's configuration with this request's folders, and what is to be said of it."""
        notes = list(dict.fromkeys([*config.notes, *plan.notes]))
        tokenizer_dir = self.tokenizer_dir or config.tokenizer_dir
        return dataclasses.replace(config, checkpoint=self.record, tokenizer_dir=tokenizer_dir, notes=notes)


class _Discard(Exception):
    """Leaves a staged folder without keeping it."""


@contextmanager
def _source_checkpoint(plan: BuildPlan, monitor: BuildMonitor) -> Iterator[_Source]:
    """Give the checkpoint folder; a model in memory is saved into a scratch folder for the length of the build."""
    tokenizer_dir = None if plan.tokenizer_dir is None else str(plan.tokenizer_dir)
    if plan.checkpoint_dir is not None:
        with monitor.phase("read the checkpoint's digest"):
            source = _Source(plan.checkpoint_dir, tokenizer_dir)
        yield source
        return
    with suppress(_Discard), staged_folder(scratch_dir() / "model") as folder:
        with monitor.phase("save the model's checkpoint"):
            plan.model.save_checkpoint(folder / "checkpoint")
            source = _Source(folder / "checkpoint", tokenizer_dir, in_memory=True)
        yield source
        raise _Discard


def _already_there(plan: BuildPlan, source: _Source, key: str, monitor: BuildMonitor) -> Engine | None:
    """Return the engine in the output folder when it is the very one that is asked for, and whole."""
    if plan.output_dir is None or not plan.use_cache or not plan.output_dir.is_dir():
        return None
    try:
        config = read_engine_config(plan.output_dir)
        if config.key != key:
            return None
        verify_files(plan.output_dir, config, check=monitor.check_cancelled)
    except BuildCancelled:
        raise
    except TrtbenchError:
        return None
    monitor.note_progress("The output folder already holds the engine of these inputs.")
    placement = "It was already in the output folder."
    return Engine(plan.output_dir, source.of_this_request(config, plan), from_cache=True, placement=placement)


def _through_cache(plan: BuildPlan, source: _Source, key: str, monitor: BuildMonitor) -> Engine:
    """Take the engine from the cache, or build it there, and put it where it is wanted.

    The entry's lock is held all the while: two builds of one key make one engine, and nobody prunes it meanwhile.
    """
    entry = entry_dir(key)
    with _entry_lock(entry, monitor):
        engine = None
        if plan.use_cache:
            with monitor.phase("verify the cached engine"):
                engine = find_cached(key, monitor.note_progress, monitor.check_cancelled)
        if engine is None:
            with staged_folder(entry, overwrite=True) as staging:
                config = _build_into(staging, entry, plan, source, key, monitor)
            engine = Engine(entry, config, placement="Built into the cache.")
        else:
            monitor.note_progress("The engine of these inputs was taken from the cache.")
            engine.config = source.of_this_request(engine.config, plan)
        if plan.output_dir is None:
            return engine
        with monitor.phase("write the output folder"):
            placement = copy_engine(
                entry,
                engine.config,
                plan.output_dir,
                overwrite=plan.overwrite,
                link=True,
                check=monitor.check_cancelled,
            )
        return Engine(plan.output_dir, engine.config, from_cache=engine.from_cache, placement=placement)


@contextmanager
def _entry_lock(entry: Path, monitor: BuildMonitor) -> Iterator[None]:
    """Hold the cache entry's lock; wait for another process that builds the same engine, and say so."""
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(entry))
        except FolderInUseError as error:
            monitor.set_state("waiting")
            with monitor.phase("wait for another process that builds the same engine"):
                monitor.add_line("info", f"{error.what} Waiting for its engine.")
                _wait_for_lock(stack, entry, monitor)
            monitor.set_state("running")
        yield


def _wait_for_lock(stack: ExitStack, entry: Path, monitor: BuildMonitor) -> None:
    while True:
        monitor.check_cancelled()
        try:
            stack.enter_context(folder_lock(entry, timeout_s=_LOOK_AGAIN_S))
            return
        except FolderInUseError:
            monitor.beat(0, 0)


def _build_into(
    staging: Path, target: Path, plan: BuildPlan, source: _Source, key: str, monitor: BuildMonitor
) -> EngineConfig:
    """Fill the staging folder of `target` with the engines of all ranks and seal it."""
    try:
        monitor.log.write_to((staging / LOG_NAME).open("w", encoding="utf-8", errors="backslashreplace"))
    except OSError as error:
        raise storage_error(error, staging, "write the build log") from error
    if plan.refit_from is None:
        _carry_timing_cache(plan, staging, monitor)
    by_worker = ranks_by_worker(plan, monitor.note)
    request = {
        "backend": plan.builder.backend,
        "builder": plan.builder_path,
        "checkpoint_dir": str(source.directory),
        "build_config": plan.build_config.to_dict(),
        "staging_dir": str(staging),
        "refit_from": None if plan.refit_from is None else str(plan.refit_from.directory),
    }
    # One worker looks whether the weights are what the key says; a checkpoint that this build has written is.
    requests = [
        {**request, "ranks": ranks, "verify_checkpoint": number == 0 and not source.in_memory}
        for number, ranks in enumerate(by_worker)
    ]
    try:
        run_workers(requests, monitor)
    except TrtbenchError as error:
        raise _for_people(error, staging, target) from error
    monitor.log.close_file()
    with monitor.phase("record sizes and digests"):
        return seal_engine(
            staging,
            plan,
            key=key,
            checkpoint=source.record,
            tokenizer_dir=source.tokenizer_dir,
            notes=list(monitor.notes),
            build_seconds=lambda: monitor.elapsed_s,
            build_report=lambda: {
                "phases": [record.to_dict() for record in monitor.phases],
                "peak_bytes": monitor.peak_bytes,
                "workers": len(by_worker),
                "warnings": monitor.log.counts["warning"],
                "errors": monitor.log.counts["error"],
            },
            check=monitor.check_cancelled,
        )


def _for_people(error: TrtbenchError, staging: Path, target: Path) -> TrtbenchError:
    """Return an error of a worker with the staging folder's name replaced by that of the folder it stands for."""
    if error.where is not None:
        error.where = error.where.replace(str(staging), str(target))
    if isinstance(error, StorageError) and is_in_cache(target):
        error.remedy = (
            f"The engine is first built into the cache, {target.parent}: make room there (engine.prune), set "
            "TRTBENCH_HOME to another disk, or build with use_cache=False straight into the output folder."
        )
    return error


def _carry_timing_cache(plan: BuildPlan, staging: Path, monitor: BuildMonitor) -> None:
    """Give the builder the timing cache of an earlier build as ``model.cache``, for a backend that keeps one."""
    if not getattr(plan.builder, "keeps_timing_cache", False):
        if plan.build_config.timing_cache is not None:
            monitor.note(f"The {plan.builder.backend} backend keeps no timing cache, so timing_cache has no effect.")
        return
    given = plan.build_config.timing_cache
    earlier = Path(given).expanduser() if given else (plan.output_dir or staging) / TIMING_CACHE_NAME
    if not earlier.is_file():
        if given:
            monitor.note(f"The timing cache {given} is not there; the build starts without one.")
        return
    try:
        shutil.copyfile(earlier, staging / TIMING_CACHE_NAME)
    except OSError as error:
        raise storage_error(error, earlier, "read the timing cache") from error
