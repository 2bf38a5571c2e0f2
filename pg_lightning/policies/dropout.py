"""Dropout whose masks are recorded while acting and replayed while learning."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

REPLACED = {nn.Dropout}
"""Exact types of dropout that :class:`ConsistentDropout` can replace."""

TORCH_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


class ConsistentDropout(nn.Module):
    """Dropout with recorded masks, so that an action is scored by the same network that sampled it.

    In training mode a forward pass draws a new mask and keeps it in :attr:`mask`. Inside :func:`replay_masks` it uses
    the recorded mask instead. Dropped units are zero, the others are scaled by 1/(1 - p). In eval mode the inputs pass
    unchanged.

    Args:
        p: probability that a unit is dropped, at least 0 and below 1.

    Raises:
        ValueError: p outside of [0, 1).

    Source: Hausknecht & Wagener (2022), "Consistent Dropout for Policy Gradient Reinforcement Learning".
    """

    mask: Tensor | None = None
    replayed: Tensor | None = None
    spent = False

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {p}")
        self.p = p

    @property
    def scale(self) -> float:
        """Factor of the units that are kept: 1/(1 - p)."""
        return 1 / (1 - self.p)

    def forward(self, inputs: Tensor) -> Tensor:
        """Drop units of ``[T, *units]``, by the replayed mask or else by a new one."""
        if not self.training:
            return inputs
        if self.replayed is None:
            self.mask = torch.rand_like(inputs) >= self.p
            return inputs * self.mask * self.scale
        if self.spent:
            raise ValueError(
                "a dropout layer was called twice in one pass: give each call a ConsistentDropout of its own"
            )
        self.spent = True
        return inputs * self.replayed * self.scale

    def replays(self, *shape: int) -> bool:
        """Whether the next forward pass, on inputs of this shape, uses a recorded mask (bool, of the same shape)."""
        mask = self.replayed
        return mask is not None and not self.spent and mask.dtype == torch.bool and mask.shape == shape

    def extra_repr(self) -> str:
        """Show p."""
        return f"p={self.p}"


def consistent_dropouts(policy: nn.Module) -> list[ConsistentDropout]:
    """Return the policy's dropout layers in module order: the order of the recorded masks."""
    return [module for module in dict.fromkeys(_modules(policy)) if isinstance(module, ConsistentDropout)]


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    """Iterate over a module and all within, in order; ``modules()`` takes five times as long, and it is asked often."""
    yield module
    for part in module._modules.values():
        if part is not None:
            yield from _modules(part)


def with_consistent_dropout(policy: nn.Module) -> nn.Module:
    """Replace every ``nn.Dropout`` in a policy by :class:`ConsistentDropout`, in place.

    Args:
        policy: any module; each replaced layer's training or eval mode is kept.

    Returns:
        The policy, or its replacement where the policy itself is an ``nn.Dropout``.

    Raises:
        ValueError: another kind of dropout, or a subclass of ``nn.Dropout``: its masks cannot be recorded.
    """
    replaced: dict[nn.Module, ConsistentDropout] = {}
    for path, module in list(policy.named_modules(remove_duplicate=False)):
        if not isinstance(module, TORCH_DROPOUTS):
            continue
        if type(module) not in REPLACED:  # A subclass may drop units in a way of its own.
            raise ValueError(f"the masks of {module} cannot be recorded: use nn.Dropout or ConsistentDropout")
        layer = replaced.setdefault(module, ConsistentDropout(module.p).train(module.training))
        if not path:
            return layer
        parent, _, name = path.rpartition(".")
        setattr(policy.get_submodule(parent), name, layer)
    return policy


@contextmanager
def evaluating(policy: nn.Module) -> Iterator[None]:
    """Put the policy in eval mode; restore each module's mode on exit."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_masks(policy: nn.Module, masks: Sequence[Tensor]) -> list[ConsistentDropout]:
    """Return the policy's dropout layers, one per mask.

    Raises:
        ValueError: another number of masks than of dropout layers.
    """
    dropouts = consistent_dropouts(policy)
    if len(dropouts) != len(masks):
        raise ValueError(f"the policy has {len(dropouts)} dropout layers, but {len(masks)} masks were recorded")
    return dropouts


@contextmanager
def replay_masks(policy: nn.Module, masks: Sequence[Tensor]) -> Iterator[None]:
    """Replay recorded dropout masks for one forward pass of the policy.

    Args:
        policy: a module with one :class:`ConsistentDropout` per mask.
        masks: the units that were kept, in module order, each ``[T, *units]``, bool.

    Raises:
        ValueError: another number of masks than of dropout layers.
    """
    dropouts = check_masks(policy, masks)
    for dropout, mask in zip(dropouts, masks, strict=True):
        dropout.replayed, dropout.spent = mask, False
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.replayed = None
