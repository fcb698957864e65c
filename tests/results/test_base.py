"""Results keep what they were given, refuse what they do not know, and show themselves."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys

import pytest
from tests.results.samples import Lesson, school

from trtbench_lab.errors import ResultsError
from trtbench_lab.results import Result, migration, result_class


def stored(result: Result) -> dict:
    """The payload after a trip through strict JSON."""
    return json.loads(json.dumps(result.to_dict(), allow_nan=False))


def test_a_result_survives_json():
    result = school(best=Lesson(title="x", marks=[]), extra={"deep": [1, {"a": None}]})
    assert Result.from_dict(stored(result)) == result
    assert type(result).from_dict(stored(result)).lessons[0] == result.lessons[0]


def test_not_a_number_and_infinity_survive_strict_json():
    result = school(
        latency_ms=float("inf"), extra={"loss": float("nan")}, lessons=[Lesson(title="", marks=[float("-inf")])]
    )
    back = Result.from_dict(stored(result))
    assert back.latency_ms == float("inf")
    assert back.extra["loss"] != back.extra["loss"]
    assert back.lessons[0].marks == [float("-inf")]


def test_a_kind_and_a_version_stand_first():
    assert list(school().to_dict())[:2] == ["kind", "schema_version"]


def test_each_result_gets_its_own_id_and_a_time_in_utc():
    first, second = school(), school()
    assert first.id != second.id
    assert re.fullmatch(r"[0-9a-f]{12}", first.id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.created_at)


def test_environment_is_collected_and_not_shared():
    first, second = school(), school()
    assert first.environment["python"] == sys.version.split()[0]
    first.environment["packages"]["made-up"] = "1"
    assert "made-up" not in second.environment["packages"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": 3.0}, r"Unknown field 'latency'.*\n.*Did you mean 'latency_ms'"),
        ({"latency_ms": "fast"}, r"latency_ms: Expected float, got 'fast'"),
        ({"count": 1.5}, r"count: Expected int, got 1\.5"),
        ({"count": True}, r"count: Expected int, got True"),
        ({"lessons": [{"title": "a", "marks": [1.0, "b"]}]}, r"lessons\[0\]\.marks\[1\]: Expected float"),
        ({"lessons": [{"title": "a"}]}, r"lessons\[0\]: The field 'marks' of Lesson is missing"),
        ({"lessons": [{"title": "a", "marks": [], "pair": [1]}]}, r"pair: Expected tuple of 2"),
        ({"lessons": [{"title": "a", "marks": [], "mood": "mixed"}]}, r"mood: Expected .*got 'mixed'"),
        ({"best": {"title": 3, "marks": []}}, r"best\.title: Expected str, got 3"),
        ({"lessons": {}}, r"lessons: Expected list, got \{\}"),
        ({"schema_version": 4}, r"schema version 4 of 'school'; this release reads up to 3.*\n.*Upgrade"),
        ({"schema_version": "3"}, r"schema_version is '3'"),
        ({"schema_version": 0}, r"schema_version is 0"),
        ({"kind": "scool"}, r"kind 'scool' are unknown.*\n.*Did you mean 'school'"),
        ({"kind": ["school"]}, r"unknown"),
    ],
)
def test_damaged_payloads_are_refused_by_field(change: dict, message: str):
    with pytest.raises(ResultsError, match=message):
        Result.from_dict({**stored(school()), **change})


def test_a_payload_without_kind_is_refused():
    with pytest.raises(ResultsError, match="no field 'kind'"):
        Result.from_dict({"backend": "torch"})
    with pytest.raises(ResultsError, match="not a stored result"):
        Result.from_dict([1])  # type: ignore[arg-type]


def test_reading_a_kind_as_another_is_refused():
    payload = stored(school())
    with pytest.raises(ResultsError, match="of kind 'school', not 'bench'"):
        result_class("bench").from_dict(payload)


def test_older_versions_are_migrated_step_by_step():
    @migration("school", 1)
    def _(payload):
        payload["latency_ms"] = payload.pop("latency_s") * 1e3
        return payload

    @migration("school", 2)
    def _(payload):
        payload["count"] = len(payload["lessons"])
        return payload

    old = stored(school())
    old["schema_version"] = 1
    del old["latency_ms"], old["count"]
    old["latency_s"] = 0.25
    before = json.dumps(old)
    result = Result.from_dict(old)
    assert (result.latency_ms, result.count) == (250.0, 1)
    assert json.dumps(old) == before


def test_a_version_without_migration_is_refused():
    from trtbench_lab.results import base

    saved = dict(base._MIGRATIONS)
    base._MIGRATIONS.clear()
    try:
        with pytest.raises(ResultsError, match="no migration of 'school' from schema version 2"):
            Result.from_dict({**stored(school()), "schema_version": 2})
    finally:
        base._MIGRATIONS.update(saved)


def test_values_that_cannot_be_stored_are_refused_by_place():
    with pytest.raises(ResultsError, match=r"school\.extra\.model\[0\]: A value of type object"):
        school(extra={"model": [object()]}).to_dict()
    with pytest.raises(ResultsError, match=r"school\.extra: The key 1 is not text"):
        school(extra={1: 2}).to_dict()


def test_numpy_and_torch_values_are_stored_as_plain_numbers():
    import numpy as np
    import torch

    extra = {"a": np.float32(0.5), "b": np.arange(3), "c": torch.tensor([1.5, 2.0]), "d": np.bool_(True)}
    assert stored(school(extra=extra))["extra"] == {"a": 0.5, "b": [0, 1, 2], "c": [1.5, 2.0], "d": True}


def test_plain_and_html_views_name_backend_and_escape_text():
    result = school(name="<script>alert(1)</script>")
    assert "backend onnxruntime" in repr(result)
    assert "latency_ms_mean" in repr(result)
    page = result._repr_html_()
    assert "backend onnxruntime" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page


def test_the_mime_bundle_has_a_plain_fallback():
    result = school()
    assert set(result._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert result._repr_mimebundle_()["text/plain"] == repr(result)
    assert set(result._repr_mimebundle_(include={"text/plain"})) == {"text/plain"}
    assert set(result._repr_mimebundle_(exclude={"text/plain"})) == {"text/html"}


def test_results_are_hashable_by_id_and_survive_pickling():
    result = school()
    assert {result, Result.from_dict(stored(result))} == {result}
    assert pickle.loads(pickle.dumps(result)) == result


def test_results_import_the_standard_library_only():
    heavy = {"torch", "numpy", "pandas", "pyarrow", "plotly", "IPython", "transformers", "onnx", "psutil"}
    code = (
        "import sys, trtbench_lab.results, trtbench_lab.results.database, trtbench_lab.benchmark\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_declared_kind_is_where_it_is_said_to_be():
    from trtbench_lab.results import base

    for kind in base._DECLARED_IN:
        assert result_class(kind).kind == kind


def test_phases_of_a_cached_engine_are_called_those_of_its_build():
    from trtbench_lab.results.steps import BuildStep

    facts = {"output_dir": "e", "seconds": 1.0, "key": "k", "engine_bytes": 1, "phases": [("write engine", 0.5)]}
    shown = {
        cached: repr(BuildStep(backend="torch", model="m", spec={}, from_cache=cached, **facts))
        for cached in (False, True)
    }
    assert "\nPhases\n" in shown[False]
    assert "\nPhases of the build that made the cached engine\n" in shown[True]
