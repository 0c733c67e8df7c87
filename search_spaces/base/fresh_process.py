"""A function called in a process that has imported nothing yet, as the contracts do with what they check.

What is sent there and back goes through pipes and is read by the same program; none of it is a file.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from search_spaces.base import trust

R = TypeVar("R")


def in_fresh_process(function: Callable[..., R], *arguments: Any, uses: Collection[str] = ()) -> R:
    """Result that a function of a module gives in another process, whose hashes are other ones too.

    Args:
        function: of hwnas.
        arguments: of it; objects of classes that can be imported.
        uses: import paths of code that is trusted there.

    Raises:
        AssertionError: it cannot be sent there, or fails there.
    """
    words = trust.words(*uses)
    try:
        call = pickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"It cannot be used in another process: {error}.") from error
    code = f"import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from {__name__} import _answer; _answer()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=pickle.dumps([path or os.getcwd() for path in sys.path]) + pickle.dumps(words) + call,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it died"]
        raise AssertionError(f"It cannot be used in another process: {said[-1]}")
    result: R = pickle.loads(done.stdout)
    return result


def _answer() -> None:
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what plug-ins print must not come between
    for word in pickle.load(sys.stdin.buffer):
        trust.trust(word)
    function, arguments = pickle.load(sys.stdin.buffer)
    with stream:
        stream.write(pickle.dumps(function(*arguments)))
