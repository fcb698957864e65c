"""The script that makes the demo: packing keeps texts whole, and every step runs on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trtbench_lab.demo import demo_model_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def test_rows_hold_whole_texts_in_the_tokens_of_inference(recipe: None) -> None:
    from tokenizers import Tokenizer

    from demo_recipe.dataset import ARTICLE, PADDING, SUMMARY, build_rows
    from trtbench_lab.demo.corpus import make_record

    tokenizer_file = demo_model_dir("gpt2") / "tokenizer.json"
    rows = build_rows(tokenizer_file, split="train", num_records=40, seed=20, workers=1)
    assert rows.tokens.shape == rows.parts.shape
    assert rows.tokens.shape[1] == 1024
    assert (rows.parts != PADDING).mean() > 0.6
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end = tokenizer.token_to_id("<|endoftext|>")
    flat = [list(row[part != PADDING]) for row, part in zip(rows.tokens, rows.parts, strict=True)]
    assert all(row[-1] == end for row in flat)
    joined = " ".join(" ".join(map(str, row)) for row in flat)
    for index in range(40):
        record = make_record("train", index, seed=20)
        prompt = tokenizer.encode(record["article"] + " TL;DR: ").ids
        summary = [*tokenizer.encode(record["highlights"]).ids, end]
        assert " ".join(map(str, prompt + summary)) in joined
    assert np.count_nonzero(rows.parts == SUMMARY) > 40 * 30
    assert np.count_nonzero(rows.parts == ARTICLE) > 40 * 100


def test_the_schedule_warms_up_and_falls(recipe: None) -> None:
    from demo_recipe.training import TrainingPlan

    plan = TrainingPlan(steps=1000, warmup_steps=100, peak_rate=1.0, final_rate_share=0.1)
    assert plan.rate(0) == pytest.approx(0.01)
    assert plan.rate(99) == pytest.approx(1.0)
    assert plan.rate(550) == pytest.approx(0.55)
    assert plan.rate(1000) == pytest.approx(0.1)


def test_the_script_writes_a_corpus(recipe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from make_demo import main

    main(["corpus", "--split", "train", "--records", "5", "--out", str(tmp_path)])
    assert "5 records" in capsys.readouterr().out
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 5


def test_the_script_trains_scores_and_writes_a_card_on_a_cpu(
    recipe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from make_demo import main

    out = tmp_path / "llama"
    sizes = ["--steps", "2", "--stories", "20", "--batch-rows", "1", "--workers", "1", "--records", "1"]
    places = ["--out", str(out), "--tokenizer", str(demo_model_dir("llama"))]
    main(["all", "--family", "llama", "--device", "cpu", *places, *sizes])
    assert "Training on a CPU takes about" in capsys.readouterr().out
    facts = json.loads((out / "training.json").read_text())
    assert facts["steps"] == 2
    assert set(facts["scores"]) == {"validation", "test"}
    assert "2 of 1 rows" in (out / "README.md").read_text()
    assert (tmp_path / "corpus" / "test.jsonl").is_file()
