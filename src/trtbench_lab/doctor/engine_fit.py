"""Whether an engine folder can be loaded here: asked of its config.json and files, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EngineError, EngineMismatchError, TrtbenchError
from .report import DoctorRow, error, ok, warning

if TYPE_CHECKING:
    from ..backends.protocol import Builder
    from ..engine.config import EngineConfig


def check_engine(engine_dir: Path | str) -> Iterator[DoctorRow]:
    """Look at the folder, its format and version, backend, machine, files and ranks, each for itself."""
    from ..engine.config import read_engine_config
    from ..engine.verify import builder_of, refuse_unfinished, verify_files

    path = Path(engine_dir).expanduser()
    try:
        refuse_unfinished(path)
        config = read_engine_config(path)
    except TrtbenchError as fault:
        yield _refused("engine folder", str(path), fault)
        return
    yield ok("engine folder", f"{path}, built {config.built_at}", "Its configuration can be read by this version.")
    built = f"{config.backend} ({config.backend_version}) on {config.machine_key}"
    builder = None
    try:
        builder = builder_of(config, str(path))
        yield ok("engine backend", config.backend, "It can be used here.")
    except EngineMismatchError as fault:
        yield _refused("engine backend", built, fault)
    if builder is not None:
        yield from _version_and_machine(config, builder)
    try:
        verify_files(path, config)
        total = config.total_bytes / 2**20
        yield ok("engine files", f"{len(config.files)} files, {total:,.1f} MiB", "Sizes and digests are as built.")
    except EngineError as fault:
        yield _refused("engine files", f"{len(config.files)} files", fault)
    yield from _ranks(config)


def _version_and_machine(config: EngineConfig, builder: Builder) -> Iterator[DoctorRow]:
    """Compare versions and machines one by one, so that both are told where both differ."""
    from ..engine.machine import machine_fingerprint, machine_sentence
    from ..engine.verify import fits_machine

    here_version, here_machine = builder.version(), builder.machine_key()
    built_with, built_on = config.backend_version, config.machine_key
    if here_version == built_with:
        yield ok("engine version", built_with, "It was built with what is installed here.")
    else:
        yield error(
            "engine version",
            f"built with {built_with}, here is {here_version}",
            "Engines are good for the version that built them, and this one would be refused.",
            "Build it again with what is installed here, or install the version it was built with.",
        )
    here = machine_sentence(machine_fingerprint())
    if here_machine == built_on:
        yield ok("engine machine", built_on, "It was built for this kind of machine.")
    elif fits_machine(config, builder):
        yield ok("engine machine", f"{built_on}, here is {here_machine}", "It was built for this kind of machine too.")
    else:
        yield error(
            "engine machine",
            f"built for {built_on}, here is {here_machine}",
            f"It was built on {machine_sentence(config.machine)}; this is {here}: kernels are chosen for one "
            "architecture.",
            "Build it again on this machine, from the same checkpoint.",
        )


def _ranks(config: EngineConfig) -> Iterator[DoctorRow]:
    """Say how many processes the engine needs, and whether this machine has as many GPUs."""
    mapping = config.pretrained_config.mapping
    world, layout = mapping.world_size, f"tp {mapping.tp_size}, pp {mapping.pp_size}"
    if world == 1:
        yield ok("engine ranks", "1", "It runs in one process.")
        return
    found = f"{world} ({layout})"
    command = f"Start as many ranks as it was built for: mpirun -n {world} python -m trtbench_lab run …"
    on_gpus = config.gpu is not None
    gpus = _gpu_count() if on_gpus else None
    if gpus is not None and gpus < world:
        meaning = f"It needs {world} GPUs, one a rank, and this machine shows {gpus}."
        remedy = f"Run it on a machine with {world} GPUs, or convert and build the model for {max(gpus, 1)} rank(s)."
        yield error("engine ranks", found, meaning, remedy)
    else:
        meaning = f"It runs in {world} processes that start together; fewer or more are refused."
        yield warning("engine ranks", found, meaning, command)


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _refused(component: str, found: str, fault: TrtbenchError) -> DoctorRow:
    return error(component, found, fault.what, fault.remedy)
