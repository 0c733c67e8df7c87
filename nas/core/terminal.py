"""Text on its way to a terminal."""

from __future__ import annotations

import logging
import unicodedata

_KEPT = "\n\t"
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of what a terminal obeys, hides or cannot encode: controls, formats, surrogates, separators."""


def clean(text: str) -> str:
    """Text whose control characters are written out: names and messages of files cannot steer a terminal.

    >>> clean("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in _KEPT or unicodedata.category(character) not in _UNSEEN else ascii(character)[1:-1]
        for character in text
    )


class CleanFormatter(logging.Formatter):
    """Log messages by `clean`."""

    def format(self, record: logging.LogRecord) -> str:
        """One message as text."""
        return clean(super().format(record))
