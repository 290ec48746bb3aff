"""HTML and SVG as nested calls. Everything that is not `Markup` is escaped: names and reasons come from
devices.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
TEXT_MAX = 600  # shown of one text; the whole is in run.sqlite
_VOID = {"meta", "br", "col", "hr"}


class Markup(str):
    """Text that is markup already; made only by `tag`, `join` and constants of this package."""

    __slots__ = ()


Child = str | int | float | Markup | None | Iterable["Child"]


def text(value: object) -> Markup:
    """Escaped, without control characters, cut at TEXT_MAX."""
    plain = _CONTROL.sub("\ufffd", str(value))
    if len(plain) > TEXT_MAX:
        plain = plain[: TEXT_MAX - 1] + "…"
    return Markup(html.escape(plain, quote=True))


def join(*children: Child) -> Markup:
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str | int | float):
            parts.append(text(child))
        else:
            parts.append(join(*child))
    return Markup("".join(parts))


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """`tag("td", "x", class_="n")`. A trailing `_` is dropped, other `_` become `-`; None leaves an
    attribute out.
    """
    rendered = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{rendered}>")
    return Markup(f"<{name}{rendered}>{join(*children)}</{name}>")


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return text(value)
