"""What ends a run whose environments no longer answer."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def _is_timer_free() -> bool:
    """Tell whether there is a timer that can be used here, and that nobody else does."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getitimer(signal.ITIMER_REAL) == (0, 0) and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


@contextmanager
def watchdog(progress: Callable[[], Any], seconds: float | None) -> Iterator[None]:
    """Raise a TimeoutError in the running code once its progress has stood still for some seconds.

    It costs nothing per step: SIGALRM looks at the progress now and then, so it is raised after up to one and a half
    times as long. What is in the middle of a call into compiled code that does not return cannot be stopped, nor can
    any but the main thread, nor is there such a timer on Windows. Where somebody else uses the timer, as an environment
    may that limits its own work, there is no watchdog.

    Args:
        progress: tells how far the code has come; it stands still while that is the same.
        seconds: how long it may stand still; ``None`` for as long as it likes.
    """
    if seconds is None or not _is_timer_free():
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
