import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ["WANDB_CONSOLE"] = "off"  # Or it keeps hold of the streams, also in processes forked later.
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")


def pytest_configure(config):
    # Lightning 2.6 asks torch 2.13 a question in a deprecated way. The package ignores it too, but pytest resets that.
    config.addinivalue_line("filterwarnings", r"ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")
    # LightningCLI of 2.6 calls what newer versions of jsonargparse deprecate; Python shows it to developers only.
    config.addinivalue_line("filterwarnings", "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


@pytest.fixture(autouse=True)
def _checked_distributions():
    """torch.compile and torch.export switch the checks of distributions off, for the tests that follow, too."""
    yield
    torch.distributions.Distribution.set_default_validate_args(True)
