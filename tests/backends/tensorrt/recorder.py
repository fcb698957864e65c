"""A TensorRT that does nothing and forgives nothing: stand-ins made from the real classes' own signatures.

Every attribute, enum member, keyword, number and type of arguments that the backend uses is held to the bindings. What
a call answers is a behaviour: `simulation` has them for the whole path; a test may set others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import trtbench_lab

from .signatures import ContractError, core, fits, overridden_faults, parse_signatures, property_type
from .stubs import bindings

SOURCE = Path(trtbench_lab.__file__).parent
Behaviour = Callable[..., Any]

# What these make or are needs CUDA, though they have constructors: they are stood in for, like all that has none.
_MADE_WITH_CUDA = ("Builder", "OnnxParser", "OnnxParserRefitter", "Refitter", "Runtime")
_PROBES = ("has_feature",)  # functions that ask whether something exists; a no is no fault there


@dataclass(frozen=True)
class Call:
    """One call, in the order of the recording: ``"Class.method"`` (or ``"Class.property="``), arguments by name."""

    name: str
    handle: Any
    arguments: dict[str, Any]


@dataclass
class Recorder:
    """What was used and how it answers.

    Attributes
    ----------
    behaviours
        ``"Class.method"`` → function of the handle and the arguments by name; without one a default of the type that
        the signature returns.
    absent
        Names (``"Class.member"`` or ``"member"``) to hide, as older versions lack them.
    calls, hits, violations
        What was called; which lines of the package used which name; what broke the contract.
    """

    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    hits: set[tuple[str, int, str]] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._classes: dict[str, Any] = {}
        self.module = _RecordedModule(self)

    def named(self, name: str) -> list[Call]:
        """Return the calls of ``"Class.method"``."""
        return [call for call in self.calls if call.name == name]

    def new(self, kind: str, **state: Any) -> Any:
        """Make a handle, for behaviours to return; `state` is theirs."""
        made = self.kind(kind)._made(self)
        made._state.update(state)
        return made

    # ---- the classes ---------------------------------------------------------------------------------------------

    def kind(self, name: str) -> Any:
        """Return what `name` of the module is here: a stand-in, an enum behind glass, or the real class."""
        if name not in self._classes:
            self._classes[name] = self._kind(name)
        return self._classes[name]

    def check_class(self, name: str) -> Any:
        """Return the class that arguments and results of type `name` must have."""
        outer, _, nested = name.partition(".")
        real = getattr(core(), outer, None)
        if real is None:
            raise RuntimeError(f"The harness does not know the type {name!r} of a signature.")
        if nested:
            return getattr(real, nested)
        return self.kind(name) if is_stood_in(name) else real

    def host_memory(self, content: bytes) -> Any:
        """Make an `IHostMemory` over `content`."""
        return self.kind("IHostMemory")(content)

    def _kind(self, name: str) -> Any:
        real = getattr(core(), name, getattr(bindings(), name, None))
        if real is None or name in self.absent:
            raise self.fault(f"tensorrt has no {name!r}")
        if not isinstance(real, type):
            return real
        if hasattr(real, "__members__"):
            return GlassEnum(self, name, real)
        if name == "IHostMemory":
            return _host_memory_class(self, real)
        if is_stood_in(name):
            bases = tuple(self.kind(base.__name__) for base in real.__bases__ if is_stood_in(base.__name__))
            body = {"__slots__": (), "_real": real, "_kind_name": name}
            return HandleType(name, bases or (Handle,), body, recorder=self)
        return _glass_class(self, name, real)

    # ---- the record ----------------------------------------------------------------------------------------------

    def site(self) -> tuple[str, int] | None:
        """Return file and line of the package's code that is at work, None when a test uses the stand-ins itself."""
        frame = inspect.currentframe()
        while frame is not None:
            filename = frame.f_code.co_filename
            if filename.startswith(str(SOURCE)):
                return str(Path(filename).relative_to(SOURCE)), frame.f_lineno
            if not filename.startswith(str(Path(__file__).parent)) or Path(filename).name.startswith("test_"):
                return None
            frame = frame.f_back
        return None

    def hit(self, name: str, site: tuple[str, int] | None = None) -> None:
        site = site or self.site()
        if site is not None:
            self.hits.add((*site, name))

    def fault(self, sentence: str) -> ContractError:
        """Note a violation and return it as an error, so that catching it does not make it unseen."""
        frame: Any = inspect.currentframe()
        while frame is not None:
            if frame.f_code.co_name in _PROBES:
                return ContractError(sentence)
            frame = frame.f_back
        self.violations.append(sentence)
        return ContractError(sentence)

    def checked(self, value: Any, annotation: str, where: str) -> Any:
        """Check an argument's type, and a callback object's methods."""
        if not fits(value, annotation, self.check_class):
            raise self.fault(f"{where} takes {annotation}, not {value!r}")
        base = getattr(core(), annotation, None)
        if isinstance(base, type) and not isinstance(value, Handle) and type(value) is not base and value is not None:
            for fault in overridden_faults(value, base) if isinstance(value, base) else ():
                raise self.fault(fault)
        return value


def is_stood_in(name: str) -> bool:
    """Whether objects of the class come from CUDA only."""
    real = getattr(core(), name, None)
    if not isinstance(real, type) or hasattr(real, "__members__"):
        return False
    if name in _MADE_WITH_CUDA:
        return True
    return not parse_signatures(real.__init__.__doc__ or "", "__init__")


class HandleType(type):
    """Makes stand-in classes; calling one is a constructor of the bindings."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], recorder: Recorder | None = None) -> Any:
        made: Any = super().__new__(cls, name, bases, body)
        if recorder is not None:
            type.__setattr__(made, "_recorder_of_class", recorder)
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], recorder: Recorder | None = None):
        super().__init__(name, bases, body)

    def _made(cls: Any, recorder: Recorder) -> Any:
        handle = object.__new__(cls)
        object.__setattr__(handle, "_recorder", recorder)
        object.__setattr__(handle, "_values", {})
        object.__setattr__(handle, "_state", {})
        return handle

    def __call__(cls: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = cls._recorder_of_class
        overloads = parse_signatures(cls._real.__init__.__doc__ or "", "__init__")
        if not overloads:
            raise recorder.fault(f"{cls._kind_name} has no constructor")
        values = _match(recorder, f"{cls._kind_name}()", overloads, args, kwargs)[1]
        handle = cls._made(recorder)
        recorder.calls.append(Call(cls._kind_name, handle, values))
        behaviour = recorder.behaviours.get(cls._kind_name)
        if behaviour is not None:
            behaviour(handle, **values)
        return handle

    def __getattr__(cls: Any, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        recorder = cls._recorder_of_class
        if not hasattr(cls._real, name) or _hidden(recorder, cls._real, name):
            raise recorder.fault(f"{cls._kind_name} has no attribute {name!r}")
        recorder.hit(name)
        return getattr(cls._real, name)


class Handle(metaclass=HandleType):
    """One stand-in object. `_state` belongs to behaviours, `_values` are properties that were set."""

    __slots__ = ("__weakref__", "_recorder", "_state", "_values")
    _real: Any
    _kind_name: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        recorder: Recorder = self._recorder
        member = _member(recorder, self._real, name)
        where = f"{self._kind_name}.{name}"
        if isinstance(member, property):
            annotation = property_type(member)
            if annotation is None:
                raise recorder.fault(f"{where} cannot be read")
            recorder.hit(name)
            behaviour = _behaviour(recorder, self._real, name)
            if behaviour is not None and name not in self._values:
                return recorder.checked(behaviour(self), f"{annotation} | None", f"the simulation of {where}")
            return self._values[name] if name in self._values else _default(recorder, annotation)
        if not callable(getattr(self._real, name)):
            recorder.hit(name)
            return getattr(self._real, name)
        return _Bound(recorder, self, name, recorder.site())

    def __setattr__(self, name: str, value: Any) -> None:
        recorder: Recorder = self._recorder
        member = _member(recorder, self._real, name)
        where = f"{self._kind_name}.{name}"
        annotation = property_type(member, setting=True) if isinstance(member, property) else None
        if annotation is None:
            raise recorder.fault(f"{where} cannot be set")
        recorder.checked(value, annotation, where)
        recorder.hit(name)
        recorder.calls.append(Call(f"{where}=", self, {"value": value}))
        self._values[name] = value
        behaviour = _behaviour(recorder, self._real, f"{name}=")
        if behaviour is not None:
            behaviour(self, value)

    def __len__(self) -> int:
        return int(self._item("__len__"))

    def __getitem__(self, index: Any) -> Any:
        return self._item("__getitem__", index)

    def __bool__(self) -> bool:
        return True

    def _item(self, name: str, *args: Any) -> Any:
        if not hasattr(self._real, name):
            raise self._recorder.fault(f"{self._kind_name} has no {name}")
        return _Bound(self._recorder, self, name, None)(*args)


class _Bound:
    """A method of a stand-in, on its way to being called."""

    def __init__(self, recorder: Recorder, handle: Handle, name: str, site: tuple[str, int] | None):
        self._recorder, self._handle, self._name, self._site = recorder, handle, name, site

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder, handle, name = self._recorder, self._handle, self._name
        where = f"{handle._kind_name}.{name}"
        overloads = parse_signatures(getattr(handle._real, name).__doc__ or "", name)
        if not overloads:
            raise RuntimeError(f"The harness finds no signature of {where}.")
        if name == "get_tensor_profile_values":  # its parameters' names are swapped in the bindings
            signature, values = overloads[0], dict(zip(("profile_index", "name"), args, strict=True))
            fitting = isinstance(args[0], int) and isinstance(args[1], str) and not kwargs
            if not fitting:
                raise recorder.fault(f"{where} is called as (profile_index, name), by position")
        else:
            signature, values = _match(recorder, where, overloads, args, kwargs)
        if self._site is not None:
            recorder.hit(name, self._site)
        recorder.calls.append(Call(where, handle, values))
        behaviour = _behaviour(recorder, handle._real, name)
        if behaviour is None:
            return _default(recorder, signature.returns)
        answer = behaviour(handle, **values)
        return recorder.checked(answer, f"{signature.returns} | None", f"the simulation of {where}")


class GlassEnum:
    """An enum whose members are the real ones, and whose uses are seen."""

    def __init__(self, recorder: Recorder, name: str, real: Any):
        self._recorder, self._name, self._real = recorder, name, real

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__members__":
            raise AttributeError(name)
        if name != "__members__" and name not in self._real.__members__:
            raise self._recorder.fault(f"{self._name} has no member {name!r}")
        self._recorder.hit(name)
        return getattr(self._real, name)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._real)

    def __call__(self, value: int) -> Any:
        return self._real(value)


def _host_memory_class(recorder: Recorder, real: Any) -> type:
    """`IHostMemory` offers its bytes as a buffer, which a Python class can before 3.12 only by being bytes."""

    class HostMemory(bytes):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("__"):
                return super().__getattribute__(name)
            if not hasattr(real, name):
                raise recorder.fault(f"IHostMemory has no attribute {name!r}")
            recorder.hit(name)
            return {"nbytes": len(self), "dtype": core().DataType.INT8}[name]

    return HostMemory


class _RecordedModule(ModuleType):
    """What ``import tensorrt`` gives."""

    def __init__(self, recorder: Recorder):
        super().__init__("tensorrt")
        self.__dict__["__version__"] = bindings().__version__
        self.__dict__["_recorder"] = recorder
        self.__dict__["__spec__"] = ModuleSpec("tensorrt", None, is_package=True)  # libraries ask whether it is there
        self.__dict__["__path__"] = []  # so that tensorrt.plugin is looked for, and not found, by name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        recorder: Recorder = self.__dict__["_recorder"]
        found = recorder.kind(name)
        recorder.hit(name)
        if inspect.isroutine(found):
            return recorder.behaviours.get(name, found)
        return found


def _glass_class(recorder: Recorder, name: str, real: Any) -> Any:
    """Return a subclass of a real class that sees which of its attributes are taken from the class."""

    class Seen(type(real)):  # type: ignore[misc]
        def __getattribute__(cls, attribute: str) -> Any:
            if attribute.startswith("__") and attribute != "__init__":
                return super().__getattribute__(attribute)
            try:
                found = super().__getattribute__(attribute)
            except AttributeError:
                raise recorder.fault(f"{name} has no attribute {attribute!r}") from None
            if recorder.site() is not None:
                recorder.hit(attribute)
            is_enum = isinstance(found, type) and hasattr(found, "__members__")
            return GlassEnum(recorder, attribute, found) if is_enum else found

    return Seen(name, (real,), {"__doc__": real.__doc__})


def _hidden(recorder: Recorder, real: Any, name: str) -> bool:
    return any(f"{base.__name__}.{name}" in recorder.absent for base in real.__mro__)


def _member(recorder: Recorder, real: Any, name: str) -> Any:
    try:
        member = inspect.getattr_static(real, name)
    except AttributeError:
        member = None
    if member is None or _hidden(recorder, real, name):
        raise recorder.fault(f"{real.__name__} has no attribute {name!r}")
    return member


def _behaviour(recorder: Recorder, real: Any, name: str) -> Behaviour | None:
    for base in real.__mro__:
        if (found := recorder.behaviours.get(f"{base.__name__}.{name}")) is not None:
            return found
    return None


def _match(
    recorder: Recorder, where: str, overloads: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    reasons = []
    for signature in overloads:
        values = signature.bound(args, kwargs, recorder.check_class)
        if not isinstance(values, str):
            for parameter in signature.parameters:
                if parameter.name in values and values[parameter.name] is not None:
                    recorder.checked(values[parameter.name], parameter.annotation, f"{where}: {parameter.name}")
            return signature, values
        reasons.append(f"{signature.text}: {values}")
    raise recorder.fault(f"{where} does not take this call: " + "; ".join(reasons))


def _default(recorder: Recorder, annotation: str) -> Any:
    """Return an answer of the right type that means success or nothing."""
    simple: dict[str, Any] = {"bool": True, "int": 0, "float": 0.0, "str": "", "None": None, "object": None}
    if annotation in simple:
        return simple[annotation]
    if annotation.startswith("list"):
        return []
    if annotation == "Dims":
        return core().Dims()
    real = getattr(core(), annotation, None)
    if real is not None and hasattr(real, "__members__"):
        return next(iter(real.__members__.values()))
    if real is not None and is_stood_in(annotation):
        return recorder.host_memory(b"") if annotation == "IHostMemory" else recorder.new(annotation)
    return None


def installed(recorder: Recorder) -> dict[str, ModuleType]:
    """Return the entries of `sys.modules` that make ``import tensorrt`` give the recorder."""
    return {"tensorrt": recorder.module}


__all__ = ["Behaviour", "Call", "ContractError", "Handle", "Recorder", "installed", "is_stood_in"]
