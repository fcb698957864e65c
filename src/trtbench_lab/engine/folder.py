"""An engine folder in the hands of a user: open it, look at it, save it elsewhere, run a rank of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..backends.emulation import emulation_of, quantization_words
from ..backends.protocol import engine_file_name
from ..file_digest import is_by_chunk
from ..storage import folder_lock
from .config import EngineConfig, read_engine_config
from .places import is_in_cache
from .present import bytes_text, html_facts, plain_facts, seconds_text
from .streaming import streaming_options
from .transfer import copy_engine
from .verify import (
    builder_of,
    check_fit,
    check_layout,
    check_rank,
    refuse_unfinished,
    verify_content,
    verify_files,
)

if TYPE_CHECKING:
    from ..backends.protocol import Builder, Executor
    from .inspect import EngineInspection


@dataclass(frozen=True)
class BuildReport:
    """How an engine was built.

    Attributes
    ----------
    seconds
        The whole build, from the request to the folder.
    phases
        Tables with ``name``, ``seconds``, ``state`` and ``rank`` (None where it concerns all).
    peak_bytes
        The most resident memory the build's processes held, mapped files included.
    workers
        Processes that built ranks side by side.
    warnings, errors
        Lines of that severity in the log.
    """

    seconds: float = 0.0
    phases: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int = 0
    workers: int = 1
    warnings: int = 0
    errors: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BuildReport:
        """Return the report that config.json keeps; what is not of its type there keeps its default: it is for show."""
        defaults = cls()
        fit = {
            name: values[name]
            for name in cls.__dataclass_fields__
            if type(values.get(name)) is type(getattr(defaults, name))
        }
        return cls(**fit)


class Engine:
    """One engine folder: config.json and one engine a rank.

    Made by `build` and `Engine.from_dir`.

    Attributes
    ----------
    directory
        The folder.
    config
        Its config.json.
    from_cache
        Whether `build` took it as it was instead of building it.
    placement
        How the files came to be where they are, as a sentence.
    """

    def __init__(
        self,
        directory: Path,
        config: EngineConfig,
        *,
        from_cache: bool = False,
        placement: str = "",
        builder: Builder | None = None,
        load_options: dict[str, Any] | None = None,
        verifies_on_load: bool = False,
    ):
        self.directory = directory
        self.config = config
        self.from_cache = from_cache
        self.placement = placement
        self._builder = builder
        self._load_options = load_options or {}
        self._verifies_on_load = verifies_on_load

    @classmethod
    def from_dir(
        cls,
        directory: Path | str,
        verify: bool | Literal["load"] = True,
        *,
        tp_size: int | None = None,
        pp_size: int | None = None,
        rank: int | None = None,
        builder: Builder | None = None,
    ) -> Engine:
        """Open an engine folder, and refuse it before it is loaded when it is damaged or does not fit.

        Parameters
        ----------
        directory
            The folder that a build wrote.
        verify
            Check sizes and digests of the files, the backend's version and the machine. Without it the folder can
            only be looked at: `executor` checks version and machine all the same. ``"load"`` leaves the content of
            the ranks' engines, which is most of the folder, to `executor`: it refuses a damaged one before anything
            is run, and the torch backend verifies on a GPU the bytes that it sends, so that they are read once.
        tp_size, pp_size
            The layout that is wanted; None takes the engine's.
        rank
            Verify only this rank's files and those of all ranks, for one process of several.
        builder
            Takes the place of the registry's backend of that name.

        Raises
        ------
        EngineError
            When the folder is not there, unfinished, damaged, or no engine.
        EngineMismatchError
            When it is of another format or major version, layout, backend version or machine; both sides are named.
        """
        path = Path(directory).expanduser()
        refuse_unfinished(path)
        config = read_engine_config(path)
        check_layout(config, tp_size, pp_size, str(path))
        if rank is not None:
            check_rank(config, rank, str(path))
        if verify:
            check_fit(config, builder or builder_of(config, str(path)), str(path))
            verify_files(path, config, rank=rank, engines=verify != "load")
        return cls(path, config, builder=builder, verifies_on_load=verify == "load")

    def with_builder(self, builder: Builder) -> Engine:
        """Return the same engine, to be loaded by `builder` rather than by the registry's backend."""
        return self._again(builder=builder)

    def with_gpu_weights(self, share: float | None) -> Engine:
        """Return the same engine, to be loaded with `share` (0 to 1) of its weights on the GPU; the others stream in.

        Raises
        ------
        RequestError
            When its weights cannot stream: of another backend than tensorrt, or built without weight_streaming.
        """
        options = streaming_options(self.config, share, str(self.directory))
        return self._again(load_options={**self._load_options, **options})

    def _again(self, *, builder: Builder | None = None, load_options: dict[str, Any] | None = None) -> Engine:
        """Return the same engine, to be loaded otherwise."""
        return Engine(
            self.directory,
            self.config,
            from_cache=self.from_cache,
            placement=self.placement,
            builder=builder or self._builder,
            load_options=self._load_options if load_options is None else load_options,
            verifies_on_load=self._verifies_on_load,
        )

    @property
    def name(self) -> str:
        """A label for people: the folder's name; in the cache, where that is a hash, the checkpoint's or model's."""
        if not is_in_cache(self.directory):
            return self.directory.absolute().name
        checkpoint = self.config.checkpoint.get("directory")
        return Path(checkpoint).name if isinstance(checkpoint, str) else self.config.pretrained_config.architecture

    @property
    def build_report(self) -> BuildReport:
        """How the engine was built; an engine from the cache keeps the report of its own build."""
        return BuildReport.from_dict({**self.config.build_report, "seconds": self.config.build_seconds})

    @property
    def tokenizer_dir(self) -> Path | None:
        """Folder with the model's tokenizer, where one was recorded and is still there."""
        recorded = self.config.tokenizer_dir
        return Path(recorded) if recorded and Path(recorded).is_dir() else None

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.config.pretrained_config.mapping.world_size

    def executor(self, rank: int = 0, *, device: str | None = None, **options: Any) -> Executor:
        """Load one rank and return its executor.

        Parameters
        ----------
        rank
            Which rank.
        device
            Torch's name of the device; None takes the backend's default.
        options
            What the backend's `load` takes besides, for example ``communicator`` for a rank of several.

        Raises
        ------
        EngineMismatchError
            When the engine does not fit this installation or machine, or has no such rank.
        EngineError
            When the backend cannot load the file, or it is damaged and was not verified before (see `from_dir`).
        """
        check_rank(self.config, rank, str(self.directory))
        builder = self._builder or builder_of(self.config, str(self.directory))
        check_fit(self.config, builder, str(self.directory))
        options = {**self._load_options, **options}
        if self._verifies_on_load:
            name = engine_file_name(rank)
            recorded = self.config.files[name].digest
            if getattr(builder, "verifies_on_load", False) and is_by_chunk(recorded):
                options["digest"] = recorded
            else:
                verify_content(self.directory, name, self.config)
        return builder.load(self.directory, rank, self.config, device=device, **options)

    def refit(self, model: Any, output_dir: Path | str | None = None, **options: Any) -> Engine:
        """Return an engine with these plans and the weights of another checkpoint; nothing is timed or compiled.

        Parameters
        ----------
        model
            Folder of a checkpoint of the same model, fine-tuned for example, or a model in memory.
        output_dir
            Folder of the new engine; None leaves it in the cache. This one stays as it is.
        options
            What `build` takes besides: ``overwrite``, ``progress``, ``timeout_s``, ….

        Raises
        ------
        TrtbenchError
            When the engine was not built with ``refit``, the model differs in more than weights, or the refit fails.
        """
        from .build import build

        return build(model, None, output_dir, refit_from=self.directory, builder=self._builder, **options)

    def save(self, directory: Path | str, *, overwrite: bool = False) -> Engine:
        """Write the engine into another folder and return the engine there.

        From the cache the files are hard links where the file system allows it (they are read-only there, and no
        further space is used), else copies; `placement` of the result says which and why.

        Raises
        ------
        StorageError
            When the folder is not empty without `overwrite`, holds something that is no engine, or cannot be written.
        """
        target = Path(directory).expanduser()
        if target.exists() and os.path.realpath(target) == os.path.realpath(self.directory):
            return self
        with folder_lock(target.absolute()):
            placement = copy_engine(
                self.directory, self.config, target, overwrite=overwrite, link=is_in_cache(self.directory)
            )
        return Engine(
            target,
            self.config,
            from_cache=self.from_cache,
            placement=placement,
            builder=self._builder,
            verifies_on_load=self._verifies_on_load,
        )

    def inspect(self, rank: int = 0) -> EngineInspection:
        """Return what is inside one rank's engine: tensors, operators, weights."""
        from .inspect import inspect_engine

        return inspect_engine(self, rank)

    def summary(self) -> dict[str, Any]:
        """Return the engine's facts as text by name, the backend first."""
        config, model, build = self.config, self.config.pretrained_config, self.config.build_config
        quantization = model.quantization
        report = self.build_report
        mapping = model.mapping
        facts: dict[str, Any] = {
            "backend": f"{config.backend} ({config.backend_version})",
            "model": (
                f"{model.architecture}, {model.num_hidden_layers} layers, hidden {model.hidden_size}, "
                f"{model.num_attention_heads} heads ({model.num_key_value_heads} key/value), "
                f"vocabulary {model.vocab_size:,}"
            ),
            "data type": f"{model.dtype} checkpoint, computed in {build.compute_dtype}",
            "quantization": quantization_words(config.backend, quantization),
            "limits": (
                f"batch {build.max_batch_size}, prompt {build.max_input_len}, sequence "
                f"{build.resolved_max_seq_len(model)} tokens, beams {build.max_beam_width}"
            ),
            "ranks": f"{mapping.world_size} (tp {mapping.tp_size}, pp {mapping.pp_size})",
            "size": f"{bytes_text(config.total_bytes)} in {len(config.files)} files",
            "built": (
                f"{config.built_at} in {seconds_text(report.seconds)}, memory at most {bytes_text(report.peak_bytes)}"
                + (", taken from the cache now" if self.from_cache else "")
            ),
            "machine": config.machine_key + (f", {config.gpu.get('name')}" if config.gpu else ""),
            "folder": str(self.directory),
        }
        if config.notes:
            facts["notes"] = list(config.notes)
        return facts

    @property
    def emulations(self) -> list[str]:
        """What of its arithmetic the engine only imitates, in words: for the notes of every result it gives."""
        words = emulation_of(self.config.backend, self.config.pretrained_config.quantization)
        return [] if words is None else [f"{words} by {self.config.backend}: right numbers, no FP8 speed."]

    def __repr__(self) -> str:
        return plain_facts(f"Engine of the {self.config.backend} backend", self.summary())

    def _repr_html_(self) -> str:
        return html_facts(f"Engine of the {self.config.backend} backend", self.summary())
