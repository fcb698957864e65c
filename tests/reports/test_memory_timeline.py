"""Memory over time keeps allocator, process and device apart and draws what was recorded."""

from __future__ import annotations

from tests.reports.samples import bench, serving

from trtbench_lab.benchmark.result import MEMORY_OVER_TIME
from trtbench_lab.reports.figure import caption_of, numbers_of
from trtbench_lab.reports.figures import memory_over_time

MIB = 1 << 20
GPU = {
    "time_ms": [0.0, 5.0, 10.0],
    "process_rss_bytes": [MIB, 3 * MIB, 2 * MIB],
    "process_gpu_bytes": [4 * MIB] * 3,
    "device_gpu_bytes": [9 * MIB] * 3,
    "allocator_reserved_bytes": [3 * MIB] * 3,
    "allocator_allocated_bytes": [2 * MIB] * 3,
}


def test_a_benchmark_draws_the_largest_batchs_timeline():
    result = bench(batch_size="4;1")
    figure = memory_over_time(result)
    recorded = result.samples[MEMORY_OVER_TIME]["b4_i16_o8"]
    assert list(figure.data[0].x) == recorded["time_ms"]
    assert "b4_i16_o8" in figure.layout.title.subtitle.text
    assert list(memory_over_time(result, configuration="b1_i16_o8").data[0].x) != recorded["time_ms"]


def test_every_kind_has_its_own_line_name_and_definition():
    result = serving().replace(samples={MEMORY_OVER_TIME: {"serving": GPU}})
    figure = memory_over_time(result)
    assert len({trace.line.dash for trace in figure.data}) == len(figure.data) == 5
    assert list(figure.data[0].y) == [1, 3, 2]
    assert [float(row[3]) for row in numbers_of(figure).rows] == [3, 4, 9, 3, 2]
    for words in ("not to be added up", "Process, resident", "Device, everybody", "Allocator, reserved"):
        assert words in caption_of(figure)


def test_runs_of_before_timelines_say_so():
    assert "No timeline" in caption_of(memory_over_time(serving()))
    assert "No timeline" in caption_of(memory_over_time(bench().replace(samples={})))
