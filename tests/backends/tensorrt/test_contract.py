"""The backend uses TensorRT as its bindings are: everything is gone through, and the check bites on every slip."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.backends.tensorrt import build_case
from tests.backends.tensorrt.calls import FOLDER, report, uses, uses_in
from tests.backends.tensorrt.mutations import Mutation, in_place, mutations_of
from tests.backends.tensorrt.recorder import SOURCE, ContractError, Recorder
from tests.backends.tensorrt.scenarios import BUILDING, Stage
from tests.backends.tensorrt.simulation import add_behaviours

from trtbench_lab.network import export

RUNNING: dict[str, Any] = {}
if importlib.util.find_spec("tests.backends.tensorrt.runtime_scenarios") is not None:
    RUNNING = importlib.import_module("tests.backends.tensorrt.runtime_scenarios").RUNNING
SCENARIOS = {**BUILDING, **RUNNING}
BUILDERS = ("builder_config", "logger", "parsing", "plan_building", "progress_monitor", "timing_cache")
USES = [use for use in uses() if RUNNING or Path(use.file).stem in BUILDERS]
# Changes that the bindings take as well: an argument with a default, and an overload with one argument of any type.
AS_GOOD = {
    ("create_network", "one argument less"),
    ("build_serialized_network", "one argument more"),
    ("get_engine_stat", "one argument less"),
    ("Weights", "one argument less"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_case.checkpoint(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return {}


@pytest.fixture
def stage_of(checkpoint: Path, networks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives each scenario a stage of its own; a network is exported once."""
    exported = export.export_network

    def once(config: Any, **options: Any) -> Any:
        key = repr({**options, "log": None})
        if key not in networks:
            networks[key] = exported(config, **options)
        return networks[key].copy()

    monkeypatch.setattr(export, "export_network", once)
    monkeypatch.setattr("trtbench_lab.backends.tensorrt.onnx_source.export_network", once)

    def make(name: str) -> Stage:
        recorder = Recorder()
        add_behaviours(recorder)
        monkeypatch.setitem(sys.modules, "tensorrt", recorder.module)
        return Stage(recorder, monkeypatch, checkpoint, tmp_path / name)

    return make


_seen: dict[str, set[tuple[str, int, str]]] = {}


def gone_through(stage_of: Any) -> dict[str, set[tuple[str, int, str]]]:
    """Run every scenario, once a session; return its uses of TensorRT."""
    for name, scenario in SCENARIOS.items():
        if name not in _seen:
            stage = stage_of(name)
            scenario(stage)
            assert not stage.recorder.violations, (name, stage.recorder.violations)
            _seen[name] = stage.recorder.hits
    return _seen


def test_every_use_of_tensorrt_is_gone_through(stage_of: Any, capsys: pytest.CaptureFixture[str]):
    hits = set().union(*gone_through(stage_of).values())
    text = report(hits)
    with capsys.disabled():
        print(f"\n{text}")
    missed = [use for use in USES if use.key not in hits]
    assert not missed, text


def test_uses_are_found_in_source():
    source = (
        "x = trt.Builder(logger)\nconfig.set_flag(trt.BuilderFlag.REFIT)\nname.split('/')\nnode.name\nconfig.foo()\n"
    )
    assert sorted((use.line, use.name, use.called) for use in uses_in(source, "x.py")) == [
        (1, "Builder", True),
        (2, "BuilderFlag", False),
        (2, "REFIT", False),
        (2, "set_flag", True),
    ]


@pytest.mark.parametrize("file", sorted({use.file for use in USES}), ids=lambda file: Path(file).stem)
def test_the_check_bites_on_every_slip(stage_of: Any, file: str):
    hits = gone_through(stage_of)
    survivors, count = [], 0
    for number, mutation in enumerate(mutations_of(file)):
        if "/probes/" in file and number % 3:  # 450 slips in code that only a conformance run reaches: a third will do
            continue
        count += 1
        if (mutation.name, mutation.change) not in AS_GOOD and not any(
            bitten(stage_of, mutation, name) for name in _through(hits, mutation)
        ):
            survivors.append(str(mutation))
    assert count > 0
    assert not survivors, "\n".join(survivors)


def _through(hits: dict[str, set[tuple[str, int, str]]], mutation: Mutation) -> list[str]:
    key = (mutation.file, mutation.line, mutation.name)
    return [name for name in SCENARIOS if key in hits[name]][:2]  # the quickest come first


def bitten(stage_of: Any, mutation: Mutation, name: str) -> bool:
    """Whether the recorder objects to a mutated backend."""
    stage = stage_of(f"mutated-{name}")
    try:
        with in_place(mutation):
            SCENARIOS[name](stage)
    except ContractError:
        return True
    except TypeError as error:  # real classes, which need no stand-in, object themselves
        return "incompatible constructor arguments" in str(error) or bool(stage.recorder.violations)
    except BaseException:  # whatever the slip leads to: only the recorder's objection counts
        return bool(stage.recorder.violations)
    return bool(stage.recorder.violations)


def test_source_folder_is_the_one_that_is_run():
    assert FOLDER.is_relative_to(SOURCE)
    assert (FOLDER / "builder.py").is_file()
