"""What ends a run whose environments have stopped to answer."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watchdog(progress: Callable[[], Any], seconds: float | None) -> Iterator[None]:
    """Raise a TimeoutError in the running code once its progress has stood still for some seconds.

    It costs nothing per step: a timer of the operating system looks at the progress now and then. What is in the middle
    of a call into compiled code that does not return cannot be stopped, nor can any but the main thread, nor is there
    such a timer on Windows.

    Args:
        progress: tells how far the code has come; it stands still while that is the same.
        seconds: how long it may stand still; ``None`` for as long as it likes.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if seconds is None or not in_main_thread or not hasattr(signal, "setitimer"):
        yield
        return
    seen, since = progress(), time.monotonic()

    def look(number: int, frame: Any) -> None:
        nonlocal seen, since
        if seen != (seen := progress()):
            since = time.monotonic()
        elif time.monotonic() - since > seconds:
            raise TimeoutError(f"nothing came back within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds / 4, seconds / 4)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
