"""Earlier observations of an episode, shown together with the latest one."""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


class Recall:
    """Keeps some observations of every episode, evenly spread over its horizon, in n worlds.

    Rows are in the order of time, the oldest first, and zeros where nothing has been kept. That is
    the order of SB3's `VecFrameStack`, which keeps every one.

    Attributes:
        rows: What is kept, (n, rows, obs).
        now: The latest observation, (n, obs).
    """

    def __init__(self, n: int, size: int, rows: int, horizon: int, device: torch.device) -> None:
        """Make room for `rows` observations of `size` numbers, in episodes of `horizon` steps."""
        self._every = -(-horizon // rows)
        self.rows = torch.zeros(n, rows, size, device=device)
        self.now = torch.zeros(n, size, device=device)

    def forget(self, mask: Tensor) -> None:
        """Empty the rows of masked worlds, (n,)."""
        self.rows.masked_fill_(mask[:, None, None], 0.0)

    def keep(self, elapsed: Tensor) -> None:
        """Keep the latest observation where it is time to, by the clocks (n,), on the CPU."""
        due = (elapsed % self._every == 0).to(self.rows.device, non_blocking=True)
        moved = torch.cat((self.rows[:, 1:], self.now[:, None]), dim=1)
        self.rows.copy_(torch.where(due[:, None, None], moved, self.rows))

    def show(self, observation: Tensor) -> Tensor:
        """Take the latest observation, (n, obs); gives it after the rows, (n, (rows + 1) * obs)."""
        self.now.copy_(observation)
        return torch.cat((self.rows.flatten(start_dim=1), observation), dim=1)


def recalled(space: spaces.Box, rows: int) -> spaces.Box:
    """The space of an observation and as many earlier ones, which may be zeros."""
    low = [*np.tile(np.minimum(space.low, 0.0), rows), *space.low]
    high = [*np.tile(np.maximum(space.high, 0.0), rows), *space.high]
    return spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
