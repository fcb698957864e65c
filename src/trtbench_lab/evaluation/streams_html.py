"""One prompt of several streams as HTML: each token a chip, the first that differs marked, what else was likely."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .divergence import Alternative, Divergence
    from .streams_result import Streamed, StreamedPrompt, StreamSide

# Inherited colours and half-transparent grounds are right on any page, and inline there is no stylesheet to lose.
_BOX = (
    "flex:1 1 20em;min-width:16em;padding:8px 12px;border:1px solid rgba(127,127,127,.35);border-radius:6px;"
    "overflow-wrap:anywhere;"
)
_CHIP = "display:inline-block;white-space:pre-wrap;border-radius:3px;padding:0 2px;margin:1px 1px 1px 0;"
_EQUAL = "background:rgba(0,114,178,.13);"
_MARK = "background:rgba(213,94,0,.28);outline:2px solid #D55E00;font-weight:600;"
_AFTER = "background:rgba(127,127,127,.14);"
_MUTED = "opacity:.72;"


def stream_block_html(index: int, prompt: StreamedPrompt, sides: list[StreamSide]) -> str:
    """Return the block with inline style only; every text is escaped."""
    text = prompt.prompt if prompt.prompt is not None else " ".join(map(str, prompt.prompt_tokens))
    boxes = "".join(_box(side, stream) for side, stream in zip(sides, prompt.streams, strict=True))
    said = "".join(
        f'<div style="{_MUTED}">{html.escape(line)}</div>'
        for side, stream in zip(sides[1:], prompt.streams[1:], strict=True)
        if stream.divergence is not None
        for line in divergence_lines(stream.divergence, side.label, sides[0].label)
    )
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;line-height:1.5;margin:14px 0 0;">'
        f'<div style="font-weight:600;">Prompt {index + 1}</div>'
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;{_MUTED}">{html.escape(text)}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:10px;margin:6px 0;">{boxes}</div>{said}</div>'
    )


def divergence_lines(where: Divergence, side: str, first: str) -> list[str]:
    """Return what is known of a first differing token, as sentences."""
    return [
        f"{side} parts from {first} at new token {where.position + 1}: {_token(where.engine_token, where.engine_text)} "
        f"instead of {_token(where.hf_token, where.hf_text)}. Margins: {where.engine_margin:.4g} and "
        f"{where.hf_margin:.4g}; largest logit difference there {where.max_abs_logit_difference:.4g}.",
        f"Likeliest by {side}: {_list(where.engine_alternatives)}",
        f"Likeliest by {first}: {_list(where.hf_alternatives)}",
    ]


def _box(side: StreamSide, stream: Streamed) -> str:
    head = f'<div><b>{html.escape(side.label)}</b> <span style="{_MUTED}">{html.escape(side.backend)}</span></div>'
    if stream.error is not None:
        return f'<div style="{_BOX}">{head}<div>{html.escape(stream.error)}</div></div>'
    numbers = [
        f"TTFT {stream.ttft_ms:.1f} ms" if stream.ttft_ms is not None else "no token",
        f"ITL {stream.tpot_ms:.2f} ms" if stream.tpot_ms is not None else "",
        f"{len(stream.tokens)} tokens",
    ]
    line = html.escape(" · ".join(number for number in numbers if number))
    part = None if stream.divergence is None else stream.divergence.position
    chips = "".join(_chip(piece, token, i, part) for i, (piece, token) in enumerate(_pairs(stream)))
    return (
        f'<div style="{_BOX}">{head}<div style="{_MUTED}">{line}</div><div style="margin-top:4px">{chips}</div></div>'
    )


def _chip(piece: str, token: int, position: int, part: int | None) -> str:
    look = _EQUAL if part is None or position < part else _MARK if position == part else _AFTER
    shown = html.escape(piece) if piece else f"⟨{token}⟩"
    return f'<span style="{_CHIP}{look}" title="token {position + 1}, id {token}">{shown}</span>'


def _pairs(stream: Streamed) -> list[tuple[str, int]]:
    return list(zip(stream.pieces, stream.tokens, strict=True))


def _token(token: int | None, text: str | None) -> str:
    if token is None:
        return "the end"
    return str(token) if text is None else f"{text!r} ({token})"


def _list(alternatives: list[Alternative]) -> str:
    return ", ".join(f"{_token(a.token, a.text)} {100 * a.probability:.1f} %" for a in alternatives)
