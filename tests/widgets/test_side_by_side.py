"""SideBySide streams what the generators give, sends few messages, and replays without them."""

from __future__ import annotations

import json
import threading
import time

import pytest
from tests.evaluation.tiny_sides import disturbed_sides, equal_sides, word_tokenizer
from tests.widgets.messages import Wire, press

from trtbench_lab.errors import RequestError, ResultsError
from trtbench_lab.evaluation.streams_result import StreamsResult
from trtbench_lab.reports import read_report
from trtbench_lab.results import ResultsDatabase
from trtbench_widgets.side_by_side import SideBySide


def made(pair=None, **options) -> SideBySide:
    engine, hf = pair or equal_sides()
    return SideBySide(
        [engine], hf=hf, tokenizer=word_tokenizer(), prompts=["w3 w14 w15"], **{"max_new_tokens": 6, **options}
    )


@pytest.fixture(scope="module")
def parted() -> StreamsResult:
    return made(disturbed_sides(3.0)).run()


def test_it_streams_and_gives_the_result():
    widget = made()
    result = widget.run()
    assert widget.status == "done"
    assert widget.notice == ""
    assert [side["label"] for side in widget.sides] == ["Hugging Face", "tiny engine"]
    assert [side["backend"] for side in widget.sides] == ["huggingface", "torch"]
    first, second = result.prompts[0].streams
    assert first.tokens == second.tokens
    assert widget.record["prompts"][0]["streams"][0]["tokens"] == first.tokens
    assert {panel["prompt"] for panel in widget.panels} == {0}


def test_six_hundred_tokens_send_few_messages():
    _, hf = equal_sides()

    class Quick:
        """A generator of 300 tokens without a model behind it."""

        backend, vocab_size, name = "torch", hf.vocab_size, "quick"

        def generate(self, prompts, sampling, *, streaming):
            import torch

            for count in range(1, 301):
                yield {
                    "output_ids": torch.full((1, 1, 3 + count), 7),
                    "sequence_lengths": torch.tensor([[3 + count]]),
                    "input_lengths": [3],
                    "finish_reasons": [["length" if count == 300 else None]],
                }

        def memory(self):
            return {}

    widget = SideBySide([Quick(), Quick()], hf=None, tokenizer=word_tokenizer(), prompts=["w3 w14 w15"])
    wire = Wire(widget)
    began = time.monotonic()
    widget.run()
    lasted = time.monotonic() - began
    messages = wire.of("tokens")
    events = [event for message in messages for event in message["events"]]
    assert [event["k"] for event in events].count("t") == 600
    assert [message["fresh"] for message in messages] == [True, *[False] * (len(messages) - 1)]
    assert len(messages) <= lasted / 0.1 + 2  # ten a second, and the last


def test_the_kernel_stays_free_and_stop_ends_it():
    engine, hf = equal_sides()
    started, release = threading.Event(), threading.Event()

    class Slow:
        backend, vocab_size, name = "torch", hf.vocab_size, "slow"

        def generate(self, prompts, sampling, **options):
            started.set()
            release.wait(30)
            return engine.generate(prompts, sampling, **options)

        def memory(self):
            return {}

    widget = SideBySide([Slow()], hf=None, tokenizer=word_tokenizer(), prompts=["w3"], max_new_tokens=50)
    press(widget, "run")  # returns at once
    assert started.wait(30)
    assert widget.status == "running"
    press(widget, "run")
    assert "A stream is running" in widget.notice
    press(widget, "stop")
    release.set()
    widget._thread.join(30)
    assert widget.result.stopped
    assert len(widget.result.prompts[0].streams[0].tokens) == 1


def test_the_divergence_reaches_the_page_with_margins_and_alternatives(parted: StreamsResult):
    record = SideBySide.replay(parted).record
    where = record["prompts"][0]["streams"][1]["divergence"]
    assert where["position"] == parted.prompts[0].streams[1].divergence.position
    assert len(where["engine_alternatives"]) == len(where["hf_alternatives"]) == 5
    assert "parts from Hugging Face at new token" in record["prompts"][0]["streams"][1]["said"]


def test_the_choice_of_mode_is_said_and_stored():
    widget = made(mode="at once")
    assert "longer than each one's own" in widget.modes["at once"]
    assert widget.run().mode == "at once"


def test_it_is_kept_exported_and_replayed_without_a_model(parted: StreamsResult, tmp_path):
    shown = SideBySide.replay(parted, database=tmp_path / "r.sqlite")
    assert shown.live is False
    press(shown, "keep")
    assert ResultsDatabase(tmp_path / "r.sqlite").get(shown.kept_as) == parted
    again = SideBySide.replay(shown.kept_as[:6], database=tmp_path / "r.sqlite")
    from_file = SideBySide.replay(shown.to_json(tmp_path / "s.json"))
    assert again.result == from_file.result == parted
    assert read_report(shown.to_html(tmp_path / "s.html")).results == [parted]


def test_export_sends_a_file_to_the_page(parted: StreamsResult):
    shown = SideBySide.replay(parted)
    wire = Wire(shown)
    press(shown, "export", format="json")
    press(shown, "export", format="html")
    (first, data), (second, page) = [(m["content"], b[0]) for m, b in wire.messages if m["method"] == "custom"]
    assert StreamsResult.from_dict(json.loads(data)) == parted
    assert first["name"] == f"side-by-side-{parted.id}.json"
    assert second["name"].endswith(".html")
    assert b"Content-Security-Policy" in page


def test_what_cannot_be_replayed_is_said(tmp_path, parted: StreamsResult):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ResultsError, match="cannot be read"):
        SideBySide.replay(tmp_path / "broken.json")
    with pytest.raises(ResultsError, match="There is no run"):
        SideBySide.replay("nothing", database=tmp_path / "r.sqlite")


def test_mistakes_are_said_in_the_notice():
    widget = made()
    widget.prompts = ["   "]
    widget.run()
    assert widget.status == "idle"
    assert widget.notice
    with pytest.raises(RequestError, match="5 engines"):
        SideBySide(["a", "b", "c", "d", "e"])
    missing = SideBySide(["/no/such/engine"], prompts=["w1"])
    missing.run()
    assert "/no/such/engine" in missing.notice
    press(missing, "keep")
    assert "Nothing was streamed" in missing.notice


def test_it_reads_well_without_a_kernel(parted: StreamsResult):
    data = SideBySide.replay(parted)._repr_mimebundle_()[0]
    assert data["text/html"].count("data:image/svg+xml") == 2
    assert "outline:2px solid" in data["text/html"]
    assert "Nothing was streamed yet" in made()._repr_mimebundle_()[0]["text/html"]


def test_a_second_view_gets_what_came_before_it():
    widget = made()
    widget.run()
    wire = Wire(widget)
    press(widget, "hello")
    (message,) = wire.of("tokens")
    assert message["fresh"]
    assert [event["k"] for event in message["events"]].count("t") == 12


def test_an_engine_of_the_cache_is_called_by_its_model_and_quantization():
    from types import SimpleNamespace

    from trtbench_lab.specs import QuantAlgo, QuantConfig
    from trtbench_widgets.stream_sides import known_label

    def engine(quantization):
        config = SimpleNamespace(pretrained_config=SimpleNamespace(quantization=quantization))
        return SimpleNamespace(name="gpt2", config=config)

    plain, int8 = engine(QuantConfig()), engine(QuantConfig(quant_algo=QuantAlgo.W8A16))
    assert known_label("8b6ace13cfc2", plain, []) == "gpt2"
    assert known_label("0453f1e12ab3", int8, []) == "gpt2 W8A16, per channel"
    assert known_label("gpt2 (1)", plain, []) == "gpt2 (1)"
    assert known_label("ffff", plain, [SimpleNamespace(label="gpt2")]) == "gpt2 (1)"
