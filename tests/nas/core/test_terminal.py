import logging

import pytest

from nas.core.terminal import CleanFormatter, clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("latency ≤ 3 µs\n\tnext", "latency ≤ 3 µs\n\tnext"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb\x07\x00", "a\\rb\\x07\\x00"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert clean(text) == shown
    record = logging.LogRecord("a", logging.WARNING, "", 0, "%s", (text,), None)
    assert CleanFormatter("%(message)s").format(record) == shown
    clean(text).encode()
