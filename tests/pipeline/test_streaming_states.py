"""Recurrent networks that carry their state from call to call: the file follows the original over hundreds of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from tests.running import session_of

STEPS = 500
INPUTS, WIDTH = 24, 96
Outputs = tuple[Tensor, ...]


class Gru(nn.Module):
    """One step of two layers of GRU: `[n, 24]` and the state `[n, 2, 96]` -> `[n, 8]` and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.gru, self.head = nn.Linear(INPUTS, WIDTH), nn.GRU(WIDTH, WIDTH, 2, batch_first=True), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor, state: Tensor) -> Outputs:
        y, after = self.gru(torch.relu(self.front(x))[:, None], state.transpose(0, 1).contiguous())
        return self.head(y[:, 0]), after.transpose(0, 1)


class Lstm(nn.Module):
    """One step of an LSTM: `[n, 24]` and both states `[n, 1, 96]` -> `[n, 8]` and the next states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(INPUTS, WIDTH, batch_first=True), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> Outputs:
        y, (h, c) = self.lstm(x[:, None], (hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous()))
        return self.head(y[:, 0]), h.transpose(0, 1), c.transpose(0, 1)


CASES: dict[str, tuple[type[nn.Module], dict[str, tuple[int, ...]]]] = {
    "GRU": (Gru, {"state": (2, WIDTH)}),
    "LSTM": (Lstm, {"hidden": (1, WIDTH), "cell": (1, WIDTH)}),
}


def sounds(n: int, steps: int, seed: int) -> Tensor:
    """Smooth inputs, `[steps, n, 24]`."""
    noise = torch.randn(steps + 20, n, INPUTS, generator=torch.Generator().manual_seed(seed))
    return noise.unfold(0, 20, 1).mean(-1)[:steps] * 4


def followed(net: nn.Module, inputs: Tensor, states: dict[str, tuple[int, ...]]) -> tuple[list[dict[str, Tensor]], np.ndarray]:
    """The inputs of every call of the original over time, and its first outputs `[steps, n, 8]`."""
    now = {name: torch.zeros(inputs.shape[1], *shape) for name, shape in states.items()}
    calls, outputs = [], []
    with torch.no_grad():
        for x in inputs:
            calls.append({"x": x, **now})
            y, *after = net(x, *now.values())
            now = dict(zip(states, after, strict=True))
            outputs.append(y.numpy())
    return calls, np.stack(outputs)


@pytest.mark.parametrize("name", CASES)
def test_the_file_follows_the_original_over_time(name: str) -> None:
    build, states = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build().eval()
    calls, _ = followed(net, sounds(16, 64, seed=1), states)
    calibration = {key: torch.cat([call[key] for call in calls[4::8]]) for key in calls[0]}
    file = dc.compress(net, "edge-int8", calibration=calibration)
    assert len(file.content) < 0.3 * file.float_bytes

    inputs = sounds(2, STEPS, seed=2)
    _, wanted = followed(net, inputs, states)
    session = session_of(file.body)
    names = [value.name for value in session.get_inputs()]
    now = {key: np.zeros((2, *shape), np.float32) for key, shape in states.items()}
    found = []
    for x in inputs.numpy():
        y, *after = session.run(None, {"x": x, **now})
        now = dict(zip(states, after, strict=True))
        found.append(y)
    assert set(names) == {"x", *states}
    error = np.sqrt(np.mean((np.stack(found) - wanted) ** 2) / np.mean(wanted**2))
    assert error < 0.02
