"""`PluginSelector` and `QuantSelector`: every choice with what it does and costs, and what contradicts it."""

from __future__ import annotations

import html
import json
import threading
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import traitlets

from trtbench_lab.errors import SpecError
from trtbench_lab.results import Table
from trtbench_lab.results.render import html_table, plain_table
from trtbench_lab.specs import (
    BuildConfig,
    ModelConfig,
    PluginConfig,
    QuantConfig,
    Spec,
    find_conflicts,
    find_notes,
    find_warnings,
)
from trtbench_lab.specs.conflicts import Gpu, in_words
from trtbench_lab.specs.presets import PRESETS
from trtbench_lab.specs.requests import BuildSpec, QuantizeSpec
from trtbench_lab.specs.requests.formats import KV_CACHE_ALGOS, QFORMAT_ALGOS

from .backend_support import every_backend, plugin_support, quantization_support
from .choices import conflict_data, described, difference, magic_line, plain, python_lines, shell_line
from .page import Page, heading_html, script, style

# Fields of a checkpoint's configuration → the fields of a request that decide them.
_OWN_NAMES = {"quant_algo": "qformat", "kv_cache_quant_algo": "kv_cache_dtype", "has_zero_point": "zero_point"}


class Selector(Page):
    """Base of both selectors: choices of one spec, its conflicts, its presets and its equivalent lines.

    Attributes
    ----------
    values
        Field → value, as plain data.
    conflicts
        What cannot stand, is unwise or follows, each with remedies that one click carries out.
    lines
        ``magic``, ``python`` and ``shell``: the same request in three spellings.
    support
        Backend → field (or format, ``"fp8"``; or type of the cache, ``"kv_cache_dtype=int8"``) → ``""`` where the
        backend honours it, else the reason why not; filled in a moment after the view is made, since backends are
        asked themselves.
    differences
        Rows of field, this choice and that of the engine or checkpoint held against it.
    """

    _esm = script("forms", "selector")
    _css = style("forms", "selector")

    title = traitlets.Unicode("").tag(sync=True)
    options = traitlets.List(traitlets.Dict()).tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    conflicts = traitlets.List(traitlets.Dict()).tag(sync=True)
    presets = traitlets.List(traitlets.Dict()).tag(sync=True)
    preset = traitlets.Unicode("").tag(sync=True)
    lines = traitlets.Dict().tag(sync=True)
    support = traitlets.Dict().tag(sync=True)
    differences = traitlets.List().tag(sync=True)
    compared = traitlets.Unicode("").tag(sync=True)

    spec_type: type[Spec]
    fields: tuple[str, ...]

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        model_config: ModelConfig | None = None,
        gpu: Gpu | None = None,
        ask_backends: bool = True,
        theme: str = "auto",
    ) -> None:
        self.model_config, self.gpu = model_config, gpu
        infos = [info for info in self.spec_type.options() if info.name in self.fields]
        presets = [{"name": p.name, "title": p.title, "why": p.why} for p in PRESETS[self.spec_type]]
        super().__init__(
            theme=theme,
            options=[described(info) for info in infos],
            presets=presets,
            values={info.name: plain(info.default) for info in infos},
        )
        self.observe(self._changed, "values")
        self.choose(**dict(values or {}))
        if ask_backends:
            threading.Thread(target=self._ask_backends, name="ask-backends", daemon=True).start()

    # ---- what is chosen --------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The choices as the spec that they belong to."""

    @abstractmethod
    def request(self) -> tuple[str, Spec]:
        """Return the verb and the whole request that the lines to copy are made of."""

    @abstractmethod
    def facts(self) -> list[Spec]:
        """Return the specs that rules look at together."""

    def choose(self, **changes: Any) -> None:
        """Change some fields.

        Raises
        ------
        SpecError
            For a field that is not offered here or a value that does not fit; nothing is changed then.
        """
        unknown = [name for name in changes if name not in self.fields]
        if unknown:
            raise SpecError(f"{', '.join(unknown)} cannot be chosen here.", where=type(self).__name__)
        values = {**self.values, **changes}
        checked = self._spec_from(values)
        self.values = {name: plain(getattr(checked, name)) for name in self.values}
        self._changed()

    def take_preset(self, name: str) -> None:
        """Choose what a preset names, and the defaults for all else."""
        found = next((one for one in PRESETS[self.spec_type] if one.name == name), None)
        if found is None:
            raise SpecError(f"There is no preset {name!r}.", where=type(self).__name__)
        defaults = {option["name"]: option["default"] for option in self.options}
        self.choose(**{**defaults, **found.changes})

    def compare_with(self, folder: str | Path) -> list[list[str]]:
        """Hold the choices against the config.json of an engine or checkpoint, and return what differs."""
        path = Path(folder).expanduser()
        path = path / "config.json" if path.is_dir() else path
        try:
            theirs = self.choices_of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise SpecError(
                "There is no config.json of an engine or checkpoint here.",
                where=str(path),
                remedy="Give the folder that a build, a conversion or TensorRT-LLM wrote.",
            ) from error
        self.differences = difference(self.comparable(), theirs)
        self.compared = str(path.parent)
        return list(self.differences)

    def comparable(self) -> dict[str, Any]:
        """Return the choices in the names that config.json uses."""
        return dict(self.values)

    @abstractmethod
    def choices_of(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the choices that a config.json holds."""

    def apply(self, changes: Mapping[str, Any]) -> None:
        """Carry out a remedy: ``{"PluginConfig.context_fmha": False}``."""
        self.choose(**{path.split(".")[-1]: value for path, value in self.translated(changes).items()})

    def translated(self, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a remedy in terms of this selector's own fields."""
        return changes

    def usable(self) -> set[str]:
        """Return the paths that a remedy may change from here."""
        return {f"{self.spec_type.__name__}.{name}" for name in self.fields}

    # ---- the page --------------------------------------------------------------------------------------------

    def on_message(self, message: dict[str, Any]) -> None:
        self.notice = ""
        kind = message.get("kind")
        if kind == "set":
            self.choose(**{str(message["name"]): message["value"]})
        elif kind == "fix":
            self.apply(message["changes"])
        elif kind == "preset":
            self.take_preset(str(message["name"]))
        elif kind == "compare":
            self.compare_with(str(message["folder"]))
        elif kind == "clear":
            self.differences, self.compared = [], ""

    def fallback_html(self) -> str:
        code = f"<pre>{html.escape(self.lines.get('magic', ''))}</pre>"
        gaps = html_table(self._gaps()) if self.support else ""
        return heading_html(self.title, self._summary()) + html_table(self._table()) + gaps + code

    def fallback_text(self) -> str:
        return f"{self.title}: {self._summary()}\n{plain_table(self._table())}\n\n{self.lines.get('magic', '')}"

    def _summary(self) -> str:
        errors = sum(one["severity"] == "error" for one in self.conflicts)
        return f"{errors} conflict(s)" if errors else "no conflicts"

    def _table(self) -> Table:
        rows = [
            (option["name"], in_words(self.values[option["name"]]), option["default_words"], option["help"])
            for option in self.options
        ]
        return Table(("option", "chosen", "default", "what it does"), rows)

    def _gaps(self) -> Table:
        rows = [
            (backend, name, reason) for backend, told in self.support.items() for name, reason in told.items() if reason
        ]
        return Table(("backend", "does not honour here", "why"), rows)

    def _spec_from(self, values: Mapping[str, Any]) -> Any:
        defaults = {option["name"]: option["default"] for option in self.options}
        return self.spec_type(**{**self._fixed(), **{k: v for k, v in values.items() if v != defaults[k]}})

    def _fixed(self) -> dict[str, Any]:
        """Return fields that are not chosen here and yet needed."""
        return {}

    def _changed(self, _: Any = None) -> None:
        """Work out everything that follows from the choices."""
        facts = self.facts()
        found = [
            *find_conflicts(*facts, gpu=self.gpu),
            *find_warnings(*facts, gpu=self.gpu),
            *find_notes(*facts, gpu=self.gpu),
        ]
        verb, request = self.request()
        with self.hold_sync():
            self.conflicts = [self._shown(conflict_data(one, self.usable())) for one in found]
            self.lines = {
                "magic": magic_line(verb, request),
                "python": python_lines(verb, request),
                "shell": shell_line(verb, request),
            }
            self.preset = self._preset_now()
            if self.compared:
                self.differences, self.compared = [], ""

    def _shown(self, conflict: dict[str, Any]) -> dict[str, Any]:
        """Return a conflict with the names that its fields have here."""
        return {**conflict, "fields": [_OWN_NAMES.get(name, name) for name in conflict["fields"]]}

    def _preset_now(self) -> str:
        defaults = {option["name"]: option["default"] for option in self.options}
        for one in reversed(PRESETS[self.spec_type]):
            if {**defaults, **{name: plain(value) for name, value in one.changes.items()}} == self.values:
                return one.name
        return ""

    def _ask_backends(self) -> None:
        try:
            self.support = self.backends_say()
        except Exception as error:  # a backend that cannot even be asked must not take the choices with it
            self.notice = f"What the backends support is not known: {error}"

    def backends_say(self) -> dict[str, dict[str, str]]:
        """Return backend → field → reason why it is not honoured, empty where it is."""
        return every_backend(self._one_backend, self.model_config)

    @abstractmethod
    def _one_backend(self, name: str, model: ModelConfig) -> dict[str, str]: ...


class PluginSelector(Selector):
    """Choose plugins and attention features of an engine.

    Parameters
    ----------
    values
        Fields of `PluginConfig` to begin with.
    checkpoint_dir
        What the copied lines build.
    model_config
        The model, for rules that look at it; None leaves those out.
    gpu
        The GPU, likewise.
    """

    spec_type = PluginConfig
    fields = PluginConfig.field_names()

    def __init__(
        self, values: Mapping[str, Any] | None = None, *, checkpoint_dir: str = "checkpoint", **others: Any
    ) -> None:
        self.checkpoint_dir = checkpoint_dir
        super().__init__(values, **others)
        self.title = "Plugins"

    @property
    def spec(self) -> PluginConfig:
        return self._spec_from(self.values)  # type: ignore[no-any-return]

    def request(self) -> tuple[str, Spec]:
        build = BuildConfig() if self.spec == PluginConfig() else BuildConfig(plugin_config=self.spec)
        return "build", BuildSpec(checkpoint_dir=self.checkpoint_dir, build_config=build)

    def facts(self) -> list[Spec]:
        model = [] if self.model_config is None else [self.model_config]
        return [self.spec, *model]

    def choices_of(self, config: dict[str, Any]) -> dict[str, Any]:
        plugins = config["build_config"]["plugin_config"]
        known = {name: value for name, value in plugins.items() if name in self.fields}
        return {name: plain(value) for name, value in PluginConfig.from_dict(known).to_dict().items()}

    def _one_backend(self, name: str, model: ModelConfig) -> dict[str, str]:
        return plugin_support(name, model)


class QuantSelector(Selector):
    """Choose how weights and cache are quantized, and what for.

    Parameters
    ----------
    source
        What the copied lines quantize.
    values, model_config, gpu
        As for `PluginSelector`, with fields of `QuantizeSpec`.
    """

    spec_type = QuantizeSpec
    fields = (
        "qformat", "kv_cache_dtype", "group_size", "quantize_lm_head", "smoothquant", "per_token", "per_channel",
        "zero_point", "act_order",
    )  # fmt: skip

    def __init__(self, values: Mapping[str, Any] | None = None, *, source: str = "demo:gpt2", **others: Any) -> None:
        self.source = source
        super().__init__(values, **others)
        self.title = "Quantization"

    @property
    def spec(self) -> QuantizeSpec:
        return self._spec_from(self.values)  # type: ignore[no-any-return]

    @property
    def quant_config(self) -> QuantConfig:
        """The choices as a checkpoint's ``quantization`` table."""
        return self.spec.quant_config

    def request(self) -> tuple[str, Spec]:
        return "quantize", self.spec

    def facts(self) -> list[Spec]:
        model = [] if self.model_config is None else [self.model_config.replace(quantization=self.quant_config)]
        return [self.spec, self.quant_config, *model]

    def comparable(self) -> dict[str, Any]:
        return {name: plain(value) for name, value in self.quant_config.to_dict().items()}

    def choices_of(self, config: dict[str, Any]) -> dict[str, Any]:
        table = config.get("pretrained_config", config)["quantization"]
        known = {name: value for name, value in table.items() if name in QuantConfig.field_names()}
        return {name: plain(value) for name, value in QuantConfig.from_dict(known).to_dict().items()}

    def usable(self) -> set[str]:
        names = ("group_size", "quant_algo", "kv_cache_quant_algo", "has_zero_point")
        return super().usable() | {f"QuantConfig.{name}" for name in names}

    def translated(self, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        formats = {plain(algo): name for name, algo in QFORMAT_ALGOS.items()}
        caches = {plain(algo): name for name, algo in KV_CACHE_ALGOS.items()}
        done: dict[str, Any] = {}
        for path, value in changes.items():
            name = path.split(".")[-1]
            if name == "quant_algo":
                done["qformat"] = formats[value]
            elif name == "kv_cache_quant_algo":
                done["kv_cache_dtype"] = None if value is None else caches[value]
            else:
                done["zero_point" if name == "has_zero_point" else name] = value
        return done

    def _fixed(self) -> dict[str, Any]:
        return {"source": self.source}

    def _one_backend(self, name: str, model: ModelConfig) -> dict[str, str]:
        return quantization_support(name, model, self.source)
