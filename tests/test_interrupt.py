import os
import signal
import subprocess
import sys
import threading

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from pg_lightning.callbacks import GracefulInterrupt
from tests.helpers import ROOT, trainer

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Learner(pl.LightningModule):
    """Learns nothing in particular; sends this process a signal in its second update, if asked for."""

    def __init__(self, number=None, fails=False):
        super().__init__()
        self.layer, self.number, self.fails = nn.Linear(1, 1), number, fails

    def training_step(self, batch, batch_idx):
        if self.global_step == 1 and self.number is not None:
            os.kill(os.getpid(), self.number)
        if self.global_step == 1 and self.fails:
            raise RuntimeError("no more of this")
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(torch.ones(9, 1))


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, the signals are as they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield before
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def fit(learner, *callbacks):
    fitted = trainer(6, callbacks=[*callbacks])
    fitted.fit(learner)
    return fitted


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
class TestHere:
    @pytest.mark.parametrize("number", SIGNALS)
    def test_the_first_signal_ends_training_after_the_running_update(self, number, handlers, capfd):
        interrupt = GracefulInterrupt()
        assert fit(Learner(number), interrupt).global_step == 2 and interrupt.signal == number
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        assert capfd.readouterr().out == "Stopping after this update (a second signal, or Ctrl-C, stops at once) ...\n"

    def test_without_a_signal_training_goes_on(self, handlers):
        interrupt = GracefulInterrupt()
        assert fit(Learner(), interrupt).global_step == 6 and interrupt.signal is None
        assert [signal.getsignal(number) for number in SIGNALS] == handlers

    def test_a_new_run_with_the_same_callback_forgets_the_signal(self):
        interrupt = GracefulInterrupt()
        fit(Learner(signal.SIGINT), interrupt)
        assert fit(Learner(), interrupt).global_step == 6 and interrupt.signal is None

    def test_an_error_restores_the_handlers(self, handlers):
        with pytest.raises(RuntimeError, match="no more"):
            fit(Learner(fails=True), GracefulInterrupt())
        assert [signal.getsignal(number) for number in SIGNALS] == handlers

    def test_beside_the_main_thread_the_signals_are_left_alone(self, handlers):
        class Look(Callback):
            def on_train_batch_end(self, *_):
                self.seen = [signal.getsignal(number) for number in SIGNALS]

        look, interrupt = Look(), GracefulInterrupt()
        thread = threading.Thread(target=lambda: interrupt.on_train_start(None, None))
        thread.start()
        thread.join()
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        fit(Learner(), look, interrupt)
        assert all(map(callable, look.seen)) and look.seen != handlers


ENDLESS = """
import sys, time, warnings
warnings.simplefilter("ignore")
import gymnasium as gym, numpy as np
from pg_lightning import EpisodeDataModule, Reinforce
from pg_lightning.callbacks import GracefulInterrupt
from tests.helpers import trainer
from pytorch_lightning.callbacks import Callback

class Endless(gym.Env):
    # Ends its first two episodes, then never again, and swallows whatever is raised in it.
    observation_space, action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        Endless.episodes += 1
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if Endless.episodes > 2 and self.t == 9:
            print("endless", flush=True)
        try:
            time.sleep(0.001)
        except BaseException:
            pass
        return np.zeros(1, np.float32), 1.0, Endless.episodes <= 2 and self.t == 3, False, {}

class Save(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(sys.argv[1])

fitted = trainer(9, callbacks=[GracefulInterrupt(), Save()])
fitted.fit(Reinforce(Endless), EpisodeDataModule(Endless, num_envs=1, episodes_per_update=1))
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *zip(SIGNALS, SIGNALS[::-1], strict=True),
        *(pytest.param(number, number, marks=pytest.mark.slow) for number in SIGNALS),
    ],
)
def test_the_second_signal_ends_a_run_whose_environment_never_ends(first, second, tmp_path):
    path = tmp_path / "last.ckpt"
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "endless\n", process.stderr.read()
            process.send_signal(first)
            assert process.stdout.readline().startswith("Stopping after this update")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(second)
            assert process.wait(10) == -second
        finally:
            process.kill()
    assert torch.load(path, weights_only=True)["global_step"] >= 1
