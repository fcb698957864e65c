"""`SideBySide`: Hugging Face and up to three engines stream the same prompts; kept, exported and replayed."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import traitlets

from trtbench_lab.engine import Engine
from trtbench_lab.errors import RequestError, ResultsError, TrtbenchError
from trtbench_lab.evaluation.streams import MAX_SIDES, StreamEvent, StreamSource, stream_side_by_side
from trtbench_lab.evaluation.streams_html import divergence_lines, stream_block_html
from trtbench_lab.evaluation.streams_result import MODES, StreamsResult
from trtbench_lab.reports import write_report
from trtbench_lab.reports.html_figure import theme_payload
from trtbench_lab.reports.static_svg import figure_image
from trtbench_lab.reports.streams import stream_gaps, stream_race
from trtbench_lab.results import Result, ResultsDatabase
from trtbench_lab.runtime.text import encode_prompts
from trtbench_lab.specs import SamplingConfig
from trtbench_lab.storage import staged_file
from trtbench_lab.workbench.loading import hf_runner_for, tokenizer_for

from .board import panel_of
from .page import Page, heading_html, script, style
from .stream_sides import known_label, named_sides, opened_side, source_of
from .throttle import Throttle

_EXAMPLE = "The quick brown fox"


class SideBySide(Page):
    """Streams beside each other, token by token, with the first difference weighed and every token's moment kept.

    Parameters
    ----------
    engines
        Up to three engine folders, `Engine` or runner objects.
    hf
        True: the model that the first engine came from; a folder or an `HFRunner`; None: engines only.
    prompts
        Texts to begin with; a person may write others.
    mode
        ``"in turn"`` (each side has the machine to itself) or ``"at once"``; the choice changes the times.
    max_new_tokens, sampling
        How much and how; greedy unless `sampling` says otherwise.
    tokenizer
        A folder or a tokenizer, where the engine does not know its own.
    database
        Path of the history; None for the person's own.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.

    Attributes
    ----------
    result
        What was streamed last (`StreamsResult`), or what is replayed; None before.

    Examples
    --------
    >>> both = SideBySide(["engine-fp16", "engine-int8"], prompts=["Once upon a time"])   # doctest: +SKIP
    >>> both.run(); both.result.prompts[0].streams[1].divergence                          # doctest: +SKIP
    """

    _esm = script("side_by_side")
    _css = style("side_by_side")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    mode = traitlets.Enum(tuple(MODES), default_value="in turn").tag(sync=True)
    modes = traitlets.Dict(MODES).tag(sync=True)
    max_new_tokens = traitlets.Int(48, min=1).tag(sync=True)
    sides = traitlets.List(traitlets.Dict()).tag(sync=True)
    status = traitlets.Enum(("idle", "loading", "running", "done"), default_value="idle").tag(sync=True)
    live = traitlets.Bool(True).tag(sync=True)
    record = traitlets.Dict().tag(sync=True)
    kept_as = traitlets.Unicode("").tag(sync=True)
    panels = traitlets.List(traitlets.Dict()).tag(sync=True)
    templates = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        engines: Sequence[Any] | str | Path = (),
        *,
        hf: Any = True,
        prompts: Sequence[str] | str = (_EXAMPLE,),
        mode: str = "in turn",
        max_new_tokens: int = 48,
        sampling: SamplingConfig | None = None,
        tokenizer: Any = None,
        database: Path | str | None = None,
        theme: str = "auto",
    ) -> None:
        self._open, self._stop = ExitStack(), threading.Event()
        self._thread: threading.Thread | None = None
        listed = [engines] if isinstance(engines, str | Path | Engine) else list(engines)
        self._engines, self._hf, self._tokenizer = listed, hf if hf is not False else None, tokenizer
        if len(listed) + (self._hf is not None) > MAX_SIDES:
            raise RequestError(
                f"{len(listed)} engines cannot be shown side by side.",
                where="engines",
                remedy="Give up to three, with Hugging Face, or up to four without it.",
            )
        self._sampling = sampling
        self.result: StreamsResult | None = None
        self._database = ResultsDatabase(database)
        self._sources: list[StreamSource] = []
        self._made: list[dict[str, Any]] = []
        self._sent = 0
        self._throttle = Throttle(self._send_new)
        super().__init__(
            prompts=[prompts] if isinstance(prompts, str) else list(prompts),
            mode=mode,
            max_new_tokens=max_new_tokens,
            theme=theme,
            templates={name: theme_payload(name) for name in ("light", "dark")},
            sides=named_sides(listed, self._hf),
            live=bool(listed) or self._hf not in (None, True),
        )

    @classmethod
    def replay(
        cls, recorded: StreamsResult | str | Path, *, database: Path | str | None = None, theme: str = "auto"
    ) -> SideBySide:
        """Show what was streamed before, without engines, models or a GPU.

        Parameters
        ----------
        recorded
            A result, the path of a file that `to_json` wrote, or the id of a kept one.

        Raises
        ------
        ResultsError
            When there is no such recording.
        """
        result = _recorded(recorded, ResultsDatabase(database))
        shown = cls(
            (), hf=None, prompts=[prompt.prompt or "" for prompt in result.prompts], database=database, theme=theme
        )
        shown.mode = result.mode
        shown._finish(result)
        return shown

    # ---- what the buttons do -----------------------------------------------------------------------------------

    def run(self, *, wait: bool = True) -> StreamsResult | None:
        """Stream the prompts; with ``wait=False`` return at once and go on in the background, as the button does."""
        if self._thread is not None and self._thread.is_alive():
            raise RequestError("A stream is running.", where="run", remedy="Stop it, or wait for its end.")
        self._stop.clear()
        self.notice, self.kept_as = "", ""
        self._thread = threading.Thread(target=self._work, name="side-by-side", daemon=True)
        self._thread.start()
        if not wait:
            return None
        self._thread.join()
        return self.result

    def stop(self) -> None:
        """End all streams at their next token."""
        self._stop.set()

    def keep(self) -> str:
        """Store what was streamed in the history and return its id."""
        self.kept_as = self._database.add(self._existing())
        return self.kept_as

    def to_json(self, path: Path | str) -> Path:
        """Write what was streamed, every token's moment included; `replay` shows it anywhere."""
        target = Path(path).expanduser()
        with staged_file(target) as staging:
            staging.write_text(self._json(), encoding="utf-8")
        return target

    def to_html(self, path: Path | str) -> Path:
        """Write one offline page of what was streamed: chips, divergences, figures, data."""
        result = self._existing()
        return write_report(path, "Side by side", [result], subtitle=result.title)

    def close(self) -> None:
        """Stop, let go of engines and models, and take the view away."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self._open.close()
        self._sources = []
        super().close()

    def on_message(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "run":
            self.run(wait=False)
        elif kind == "stop":
            self.stop()
        elif kind == "keep":
            self.keep()
        elif kind == "export":
            self._export(message["format"])
        elif kind == "hello":
            # A second view of the same widget, opened while streams run, gets what came before it.
            self.send({"kind": "tokens", "fresh": True, "events": self._made})

    # ---- what stands in its place ------------------------------------------------------------------------------

    def fallback_html(self) -> str:
        if self.result is None:
            return heading_html("Side by side", "Nothing was streamed yet: run the cell and press Run.")
        result = self.result
        blocks = "".join(stream_block_html(i, prompt, result.sides) for i, prompt in enumerate(result.prompts))
        figures = "".join(figure_image(figure) for figure in (stream_race(result), stream_gaps(result)))
        return heading_html("Side by side", MODES[result.mode]) + blocks + figures

    def fallback_text(self) -> str:
        return repr(self.result) if self.result is not None else "Side by side: nothing was streamed yet"

    # ---- inside ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            if not self._sources:
                self.status = "loading"
                self._load()
            tokenizer = self._tokenizer
            texts = [text for text in self.prompts if text.strip()]
            ids = encode_prompts(tokenizer, texts)
            self._made, self._sent = [], 0
            self.record, self.panels, self.result = {}, [], None
            self.status = "running"
            sampling = (self._sampling or SamplingConfig()).replace(max_new_tokens=self.max_new_tokens)
            result = stream_side_by_side(
                self._sources,
                ids,
                sampling,
                tokenizer=tokenizer,
                texts=texts,
                mode=self.mode,
                on_event=self._on_event,
                stop=self._stop,
            )
            self._throttle.flush()
            self._finish(result)
        except TrtbenchError as error:
            self.notice, self.status = str(error), "idle"
        except Exception as error:  # in a thread nobody else would tell
            self.notice, self.status = f"{type(error).__name__}: {error}", "idle"

    def _load(self) -> None:
        """Open engines, tokenizer and model once; the first streams wait for it, later ones do not."""
        opened = [opened_side(engine, self._open) for engine in self._engines]
        engines = [engine for engine, _ in opened if engine is not None]
        first = engines[0] if engines else None
        if self._tokenizer is None or isinstance(self._tokenizer, str | Path):
            folder = None if self._tokenizer is None else str(self._tokenizer)
            self._tokenizer = tokenizer_for(first, folder)
        sources = []
        if self._hf is not None:
            runner = self._hf
            if self._hf is True or isinstance(self._hf, str | Path):
                folder = None if self._hf is True else str(self._hf)
                runner = self._open.enter_context(hf_runner_for(first, folder, "auto"))
            sources.append(StreamSource(label="Hugging Face", runner=runner))
        for side, (engine, runner) in zip(self.sides[len(sources) :], opened, strict=True):
            sources.append(source_of(known_label(side["label"], engine, sources), engine, runner))
        self._sources = sources
        self.sides = [
            {
                "label": source.label,
                "backend": source.runner.backend,
                "dtype": source.dtype or getattr(source.runner, "dtype", None) or "",
                "quantization": source.quantization or "",
            }
            for source in sources
        ]

    def _on_event(self, event: StreamEvent) -> None:
        if event.kind == "ended":
            return  # the record that follows holds it, divergences included
        self._made.append(
            {
                "k": event.kind[0],
                "p": event.prompt,
                "s": event.side,
                "t": event.token,
                "x": event.piece,
                "n": event.since_ns,
            }
        )
        self._throttle.update(upto=len(self._made))

    def _send_new(self, values: dict[str, Any]) -> None:
        begin, self._sent = self._sent, values["upto"]
        self.send({"kind": "tokens", "fresh": begin == 0, "events": self._made[begin : self._sent]})

    def _finish(self, result: StreamsResult) -> None:
        self.result = result
        with self.hold_sync():
            self.sides = [
                {
                    "label": side.label,
                    "backend": side.backend,
                    "dtype": side.dtype or "",
                    "quantization": side.quantization or "",
                }
                for side in result.sides
            ]
            self.record = _for_page(result)
            self.panels = [
                {**panel_of(make(result, prompt=i), key=f"{i}-{make.__name__}"), "prompt": i}
                for i in range(len(result.prompts))
                for make in (stream_race, stream_gaps)
            ]
            self.status = "done"

    def _existing(self) -> StreamsResult:
        if self.result is None:
            raise ResultsError("Nothing was streamed yet.", where="SideBySide", remedy="Press Run first.")
        return self.result

    def _json(self) -> str:
        return json.dumps(self._existing().to_dict(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"

    def _export(self, kind: str) -> None:
        """Send a file to the page, which saves it where the person's browser saves files."""
        if kind == "json":
            text = self._json()
        else:
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                text = self.to_html(Path(folder) / "side-by-side.html").read_text(encoding="utf-8")
        self.send({"kind": "file", "name": f"side-by-side-{self._existing().id}.{kind}"}, [text.encode()])


def _recorded(recorded: StreamsResult | str | Path, database: ResultsDatabase) -> StreamsResult:
    result: Result
    if isinstance(recorded, StreamsResult):
        return recorded
    path = Path(recorded).expanduser()
    if path.suffix == ".json" or path.is_file():
        try:
            result = Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"The recording cannot be read: {error}.", where=str(path), remedy="Give a file that to_json wrote."
            ) from error
    else:
        result = database.get(str(recorded))
    if not isinstance(result, StreamsResult):
        raise ResultsError(
            f"A result of kind {result.kind!r} cannot be replayed.", where=result.id, remedy="Give one of kind streams."
        )
    return result


def _for_page(result: StreamsResult) -> dict[str, Any]:
    """Return the result as the page takes it, with each divergence also as sentences."""
    record = result.to_dict()
    labels = [side.label for side in result.sides]
    for prompt, shown in zip(result.prompts, record["prompts"], strict=True):
        for i, (stream, entry) in enumerate(zip(prompt.streams, shown["streams"], strict=True)):
            where = stream.divergence
            entry["said"] = divergence_lines(where, labels[i], labels[0])[0] if where is not None else ""
    return {key: record[key] for key in ("id", "mode", "stopped", "sides", "prompts")}
