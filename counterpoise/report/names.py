"""Names are data: made safe to lay out and to encode, and cut to the room there is. Knows nothing of drawing."""

from __future__ import annotations

import unicodedata

#: Overrides and embeddings of the text direction: they would reorder the text around a name.
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: str) -> str:
    """Text that is safe to lay out and to encode: one line, no control characters, no broken surrogates.

    >>> plain("a\\tb\\x00c")
    'a b�c'
    """
    return "".join(
        " " if char in "\t\n\v\f\r\u2028\u2029" else "\ufffd" if _unprintable(char) else char for char in text
    )


def _unprintable(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cs"} or char in BIDI or char in "\ufffe\uffff"


def shorten(text: str, columns: int) -> str:
    """The text cut to this many columns (wide letters take two), with an ellipsis where something is left out.

    >>> shorten("a long name", 7), shorten("short", 7)
    ('a long…', 'short')
    """
    text = plain(text)
    if columns_of(text) <= columns and len(text) <= 4 * columns:
        return text
    kept, used = "", 1.0
    for char in text:
        if used + columns_of(char) > columns or len(kept) > 3 * columns:
            break
        kept, used = kept + char, used + columns_of(char)
    return kept.rstrip(" \u200d\ufe0f") + "…"


def columns_of(text: str) -> float:
    """About how many columns a text takes: wide letters take more than one, combining marks none.

    >>> columns_of("ab"), columns_of("数字"), columns_of("e\u0301")
    (2.0, 4.0, 1.0)
    """
    return sum((_column(char) for char in text), 0.0)


def _column(char: str) -> float:
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return 2.0
    return 1.75 if char in "WMwm@%—" else 1.3 if unicodedata.category(char) == "Lo" else 1.0
