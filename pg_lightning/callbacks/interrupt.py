"""Graceful end of a run on Ctrl-C or SIGTERM."""

import os
import signal
import threading
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulInterrupt(Callback):
    """Ends training after the running update on Ctrl-C or SIGTERM; a second signal of either kind ends the process.

    The second one is left to the operating system, so that it works whatever the process does: in an environment that
    catches every exception or never returns, and during a save, which leaves the checkpoint before it. A shell sees the
    exit status 128 + signal.

    Attributes:
        signal: number of the signal that came, or ``None``.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; only the main thread may. Lightning restores the handlers at the end of the fit."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.signal = None

        def stop(number: int, frame: Any) -> None:
            self.signal = number
            for again in SIGNALS:
                signal.signal(again, signal.SIG_DFL)
            if trainer.is_global_zero:
                # A print of its own could meet one that the signal interrupted, which Python refuses.
                with suppress(OSError):
                    os.write(1, b"Stopping after this update (a second signal, or Ctrl-C, stops at once) ...\n")

        for number in SIGNALS:
            signal.signal(number, stop)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End training if a signal came, to whichever process."""
        if trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False):
            trainer.should_stop = True
