"""One prompt of a comparison as text and as HTML: both outputs, the first differing token marked in each."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compare import PromptComparison
    from .divergence import Alternative, Divergence

_BOX = "flex:1 1 20em;min-width:16em;padding:6px 10px;border:1px solid rgba(127,127,127,.35);border-radius:4px;"
_MARK = "background:rgba(230,140,0,.35);border-radius:2px;padding:0 1px;"
_AFTER = "opacity:.68;"


def prompt_block_plain(index: int, comparison: PromptComparison, backend: str) -> str:
    """Return the block as text."""
    lines = [f"Prompt {index}: {_prompt(comparison)}"]
    for label, text in _outputs(comparison, backend):
        lines.append(f"  {label}: {text}")
    if comparison.divergence is None:
        lines.append(f"  All {len(comparison.hf.tokens)} tokens are equal.")
    else:
        lines += [f"  {line}" for line in _divergence_lines(comparison.divergence)]
    return "\n".join(lines)


def prompt_block_html(index: int, comparison: PromptComparison, backend: str) -> str:
    """Return the block as HTML with inline style only; every text is escaped."""
    where = comparison.divergence
    boxes = []
    for label, text in _outputs(comparison, backend):
        side = "hf" if label.startswith("Hugging Face") else "engine"
        marked = _marked(text, None if where is None else _shared_text(comparison), where, side)
        boxes.append(
            f'<div style="{_BOX}"><div style="font-weight:600;">{html.escape(label)}</div>'
            f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;">{marked}</div></div>'
        )
    said = (
        f"All {len(comparison.hf.tokens)} tokens are equal."
        if where is None
        else "<br>".join(html.escape(line) for line in _divergence_lines(where))
    )
    return (
        '<div style="font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;margin:14px 0 0;">'
        f'<div style="font-weight:600;">Prompt {index}</div>'
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;{_AFTER}">{html.escape(_prompt(comparison))}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:10px;margin:6px 0;">{"".join(boxes)}</div>'
        f'<div style="{_AFTER}">{said}</div></div>'
    )


def _prompt(comparison: PromptComparison, longest: int = 400) -> str:
    text = comparison.prompt
    if text is None:
        text = " ".join(str(token) for token in comparison.prompt_tokens)
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


def _outputs(comparison: PromptComparison, backend: str) -> list[tuple[str, str]]:
    sides = ((f"Engine ({backend})", comparison.engine), ("Hugging Face", comparison.hf))
    return [
        (label, side.text if side.text is not None else " ".join(str(token) for token in side.tokens))
        for label, side in sides
    ]


def _shared_text(comparison: PromptComparison) -> str:
    """The longest common beginning of both texts (token ids are texts too), which stands unmarked."""
    (_, engine), (_, other) = _outputs(comparison, "")
    length = 0
    while length < min(len(engine), len(other)) and engine[length] == other[length]:
        length += 1
    return engine[:length]


def _marked(text: str, shared: str | None, where: Divergence | None, side: str) -> str:
    if where is None or shared is None:
        return html.escape(text)
    begin, end = _token_span(text, len(shared), where.hf_text if side == "hf" else where.engine_text)
    return (
        f'{html.escape(text[:begin])}<mark style="{_MARK}color:inherit;">{html.escape(text[begin:end])}</mark>'
        f'<span style="{_AFTER}">{html.escape(text[end:])}</span>'
    )


def _token_span(text: str, shared: int, token_text: str | None) -> tuple[int, int]:
    """Where the differing token stands: tokens that differ may begin with the same characters, a space above all."""
    for begin in range(shared, max(-1, shared - len(token_text or "")), -1):
        if token_text and text.startswith(token_text, begin):
            return begin, begin + len(token_text)
    word = text[shared:].split(" ", 1)[0]
    return shared, shared + max(1, len(word))


def _divergence_lines(where: Divergence) -> list[str]:
    return [
        f"First divergence at new token {where.position}: engine {_token(where.engine_token, where.engine_text)}, "
        f"Hugging Face {_token(where.hf_token, where.hf_text)}.",
        f"Margin of the choice: engine {where.engine_margin:.4g}, Hugging Face {where.hf_margin:.4g}; largest logit "
        f"difference there {where.max_abs_logit_difference:.4g}.",
        f"Engine's likeliest: {_list(where.engine_alternatives)}",
        f"Hugging Face's likeliest: {_list(where.hf_alternatives)}",
    ]


def _token(token: int | None, text: str | None) -> str:
    if token is None:
        return "had ended"
    return str(token) if text is None else f"{text!r} ({token})"


def _list(alternatives: list[Alternative]) -> str:
    return ", ".join(f"{_token(a.token, a.text)} {a.logit:.4f}" for a in alternatives)
