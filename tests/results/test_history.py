"""The list of runs, and runs side by side."""

from __future__ import annotations

import pytest
from tests.results.samples import school

from trtbench_lab.errors import ResultsError
from trtbench_lab.results import ResultsDatabase, compare_results


@pytest.fixture
def database(tmp_path):
    database = ResultsDatabase(tmp_path / "results.sqlite")
    database.add(school(id="00000000000a", created_at="2026-01-01T00:00:00.000Z", name="fp32"))
    database.add(
        school(
            id="00000000000b",
            created_at="2026-01-02T00:00:00.000Z",
            name="<i>int8</i>",
            latency_ms=10.0,
            tokens_per_sec=2000.0,
        )
    )
    return database


def test_a_view_is_a_sequence_of_rows_newest_first(database):
    view = database.query()
    assert view.ids == ["00000000000b", "00000000000a"]
    assert len(view) == 2
    assert view[0].backend == "onnxruntime"
    assert view[:1].ids == ["00000000000b"]
    assert [row.id for row in view] == view.ids
    assert view.load(1).name == "fp32"
    assert [result.id for result in view.results()] == view.ids


def test_a_view_shows_backend_numbers_and_escapes_names(database):
    view = database.query()
    assert "Latency 10.00 ms, Output tokens per second 2,000 tokens/s" in repr(view)
    assert "onnxruntime" in repr(view)
    page = view._repr_html_()
    assert "<i>" not in page
    assert "&lt;i&gt;int8" in page


def test_empty_views_say_why(tmp_path, database):
    assert "No run is stored" in repr(ResultsDatabase(tmp_path / "other.sqlite").query())
    assert "None of the 2 stored runs matches" in repr(database.query(backend="tensorrt"))


def test_ratios_are_against_the_first(database):
    comparison = database.compare(["00000000000a", "00000000000b"])
    by_name = {metric.name: metric for metric in comparison.metrics}
    latency, rate, count = by_name["latency_ms_mean"], by_name["tokens_per_sec"], by_name["count"]
    assert latency.values == (40.0, 10.0)
    assert latency.ratios == (1.0, 0.25)
    assert (latency.direction, latency.best, latency.unit) == ("lower", 1, "ms")
    assert (rate.ratios, rate.direction, rate.best) == ((1.0, 4.0), "higher", 1)
    assert count.best is None


def test_the_order_of_ids_names_the_reference(database):
    view = database.query()
    assert view.compare(0, 1).metrics[0].ratios == (1.0, 4.0)
    assert view.compare().ids == ("00000000000b", "00000000000a")


def test_missing_values_and_true_zeros_have_no_ratio():
    results = [school(latency_ms=0.0, tokens_per_sec=None), school(latency_ms=3.0, tokens_per_sec=5.0)]
    latency, rate, _ = compare_results(results).metrics
    assert latency.ratios == (None, None)
    assert latency.best == 0
    assert rate.values == (None, 5.0)
    assert rate.ratios == (None, None)
    assert rate.best is None


def test_metrics_are_chosen_by_name_or_tag(database):
    ids = ["00000000000a", "00000000000b"]
    assert [m.name for m in database.compare(ids, ["latency_ms"]).metrics] == ["latency_ms_mean"]
    assert [m.name for m in database.compare(ids, ["count", "latency_ms_mean"]).metrics] == ["count", "latency_ms_mean"]
    with pytest.raises(ResultsError, match=r"metric 'latency_mss'.*\n.*Did you mean 'latency_ms_mean'"):
        database.compare(ids, ["latency_mss"])


def test_views_of_a_comparison_name_backends_and_the_best(database):
    comparison = database.compare(["00000000000a", "00000000000b"])
    assert "fp32 [onnxruntime]" in repr(comparison)
    assert "10.00 (×0.2500) *" in repr(comparison)
    assert "&lt;i&gt;int8" in comparison._repr_html_()
    assert comparison.to_csv().splitlines()[1] == "latency_ms_mean,ms,lower,40.0,1.0,10.0,0.25"


def test_different_machines_and_models_are_pointed_out():
    other = {"machine": {"cpu_model": "Other CPU", "cpu_cores_usable": 64, "gpus": [{"name": "H200"}]}}
    comparison = compare_results([school(), school(environment=other, model="llama")])
    assert "Not the same machine" in repr(comparison)
    assert "Other CPU (64 cores), H200" in repr(comparison)
    assert "Not the same model: gpt2, llama" in repr(comparison)


def test_fewer_than_two_results_are_refused(database):
    with pytest.raises(ResultsError, match="1 result"):
        database.compare(["00000000000a"])
    with pytest.raises(ResultsError, match="One id"):
        database.compare("00000000000a")
