"""Which TensorRT is let in, and which sentence stands for each that is not."""

from __future__ import annotations

import builtins
import sys
from importlib import metadata

import pytest

from trtbench_lab.backends.registry import availability
from trtbench_lab.backends.tensorrt import bindings_check
from trtbench_lab.errors import EngineError


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def failing_import(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = bindings_check.importlib.import_module

    def load(name: str, *others: object) -> object:
        if name == "tensorrt":
            raise error
        return real(name, *others)

    monkeypatch.setattr(bindings_check.importlib, "import_module", load)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("10.16.1.11", False),
        ("11.0.0.114", False),
        ("11.1.0.106", True),
        ("11.4.0.106", True),
        ("11.12.0", True),
        ("12.0", False),
        ("", False),
    ],
)
def test_versions_within_the_bounds(version: str, fits: bool):
    assert bindings_check.supported(version) is fits


def test_the_bindings_of_the_tests_are_the_version_that_the_backend_names(real_tensorrt):
    assert real_tensorrt.__version__ == bindings_check.TESTED


@pytest.mark.parametrize("name", ["tensorrt-cu13-bindings", "tensorrt-cu12-bindings"])
@pytest.mark.parametrize("version", ["10.16.1.11", "11.0.0.114", "12.1"])
def test_other_versions_are_refused_before_they_are_imported(monkeypatch, recorder, name, version):
    installed(monkeypatch, {name: version})
    failing_import(monkeypatch, AssertionError("imported"))
    with pytest.raises(EngineError, match=rf"11\.1 up to, and without, 12; installed is {name} {version}") as caught:
        bindings_check.tensorrt()
    assert "pip install" in caught.value.remedy


def test_two_builds_of_the_bindings_are_refused(monkeypatch, recorder):
    installed(monkeypatch, {"tensorrt-cu13-bindings": "11.4.0.106", "tensorrt-cu12-bindings": "11.4.0.106"})
    with pytest.raises(EngineError, match="share one module name"):
        bindings_check.tensorrt()


def test_absence_is_a_sentence():
    assert "tensorrt" not in sys.modules
    found = availability("tensorrt")
    assert not found.ok
    assert "not installed" in found.reason


def test_bindings_without_the_package_around_them(monkeypatch, recorder):
    failing_import(monkeypatch, ModuleNotFoundError("No module named 'tensorrt_bindings'", name="tensorrt_bindings"))
    with pytest.raises(EngineError, match="tensorrt_bindings is missing"):
        bindings_check.tensorrt()


def test_missing_libraries_are_named(monkeypatch, recorder):
    text = "libnvonnxparser.so.11: cannot open shared object file: No such file or directory"
    failing_import(monkeypatch, ImportError(text))
    with pytest.raises(EngineError, match=r"its libraries \(libnvonnxparser\.so\.11\) do not load") as caught:
        bindings_check.tensorrt()
    assert "tensorrt-cu13-libs" in caught.value.remedy


def test_the_version_of_the_module_itself_decides_too(monkeypatch, recorder):
    installed(monkeypatch, {})
    monkeypatch.setitem(recorder.module.__dict__, "__version__", "10.9.0")
    with pytest.raises(EngineError, match=r"installed is tensorrt 10\.9\.0"):
        bindings_check.tensorrt()


def test_without_a_driver_the_constructors_failure_is_a_sentence(real_tensorrt):
    trt = bindings_check.tensorrt()
    logger = trt.Logger(trt.Logger.ERROR)
    for make, what in ((lambda: trt.Builder(logger), "a builder"), (lambda: trt.Runtime(logger), "a runtime")):
        with pytest.raises(EngineError, match=f"could not make {what}: CUDA does not start here") as caught:
            bindings_check.created(make, what)
        assert "nvidia-smi" in caught.value.remedy


def test_none_is_a_failure_and_other_type_errors_are_not_hidden():
    with pytest.raises(EngineError, match="could not make the engine"):
        bindings_check.created(lambda: None, "the engine")
    with pytest.raises(TypeError, match="invalid keyword"):
        bindings_check.created(lambda: builtins.sorted([], wrong=1), "a list")


def test_later_features_are_asked_for(recorder):
    trt = bindings_check.tensorrt()
    assert bindings_check.has_feature(trt.Refitter, "release_refit_resources")
    recorder.absent.add("Refitter.release_refit_resources")
    assert not bindings_check.has_feature(trt.Refitter, "release_refit_resources")
    assert not bindings_check.has_feature(trt, "Nonsense")
