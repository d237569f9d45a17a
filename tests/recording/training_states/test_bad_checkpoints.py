"""Files that were cut, changed or made to run code: one sentence each, and nothing runs."""

from __future__ import annotations

import os
import pathlib
import pickle
import subprocess
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states import load_training_state


class Runs:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def parts(square: float = 0.5, **more: Any) -> dict[str, Any]:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.state[layer.weight]["exp_avg_sq"][0, 1] = square
    return {"model": layer.state_dict(), "optimizer": optimizer.state_dict(), **more}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("what", ["system", "eval", "popen"])
def test_nothing_that_a_file_names_is_run(what: str, legacy: bool, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    bombs = {
        "system": Runs(os.system, f"touch {ran}"),
        "eval": Runs(eval, f"open({str(ran)!r}, 'w').close()"),
        "popen": Runs(subprocess.Popen, ["touch", str(ran)]),
    }
    path = tmp_path / "a.pt"
    torch.save(parts(extra=bombs[what]), path, _use_new_zipfile_serialization=not legacy)
    if legacy or what == "system":
        with pytest.raises(InvalidRequest, match=r"holds '.*', and unpickling it could run code; save"):
            load_training_state(path)
    else:  # read as an empty dictionary
        assert load_training_state(path).parameters
    assert not ran.exists()


def test_objects_of_other_classes_are_passed_over(tmp_path: Path) -> None:
    odd = {
        "args": Namespace(lr=1e-3, out=pathlib.PurePosixPath("runs")),
        "best": np.float64(0.9),
        "history": defaultdict(list, loss=[1.0]),
        "module": nn.Conv2d(1, 1, 1),
        "array": np.arange(3.0),
    }
    torch.save(parts(**odd), tmp_path / "a.pt")
    assert list(load_training_state(tmp_path / "a.pt").parameters) == ["weight"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_squares_that_are_none_are_refused(value: float, tmp_path: Path) -> None:
    torch.save(parts(value), tmp_path / "a.pt")
    with pytest.raises(InvalidRequest, match=r"the squares of gradients of 'weight' (aren't finite|reach down to -1e\+03)"):
        load_training_state(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors", ".keras", ".h5", ".npz"])
@pytest.mark.parametrize(
    "content", [b"", b"just text, no tensors", b"PK\x03\x04 not a zip", b"\x80\x02 no", bytes(range(256)) * 40]
)
def test_files_of_something_else(suffix: str, content: bytes, tmp_path: Path) -> None:
    if suffix in (".keras", ".h5"):
        pytest.importorskip("h5py")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"a\.\w+' "):
        load_training_state(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_and_changed_files(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(parts(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidRequest, match=r"save or copy it again|holds objects|could run code"):
            load_training_state(path)
    generator = np.random.default_rng(0)
    for _ in range(40):
        changed = bytearray(whole)
        for place in generator.integers(0, len(whole), 8):
            changed[place] = generator.integers(256)
        path.write_bytes(changed)
        try:
            load_training_state(path)
        except InvalidRequest as error:
            assert str(error).endswith(".") and "\n" not in str(error)


def test_states_of_odd_forms(tmp_path: Path) -> None:
    good = parts()
    for optimizer in (
        {"state": {0: {"exp_avg_sq": "x"}}, "param_groups": [{"params": [0], "betas": (0.9, 0.99)}]},
        {"state": {0: {"exp_avg_sq": torch.ones(2, 3)}}, "param_groups": [{"params": [0], "betas": 0.9}]},
        {"state": {0: {"exp_avg_sq": torch.ones(2, 3), "step": "many"}}, "param_groups": [{"params": [0], "betas": (0.9, 0.99)}]},
        {"state": {0: {"exp_avg_sq": torch.ones(2, 3)}}, "param_groups": [{}]},
        {"state": {0: {"row_var": torch.ones(2, 1), "col_var": None}}, "param_groups": [{"params": [0]}]},
        {"state": {0: {"exp_avg_sq": torch.ones(2, 3)}}, "param_groups": [{"params": [[0]], "betas": (0.9, 0.99)}]},
    ):
        torch.save({"model": good["model"], "optimizer": optimizer}, tmp_path / "a.pt")
        with pytest.raises(InvalidRequest, match="a form that isn't read"):
            load_training_state(tmp_path / "a.pt")
    with pytest.raises(InvalidRequest, match="holds no state of an optimizer"):
        torch.save(good["model"], tmp_path / "a.pt")
        load_training_state(tmp_path / "a.pt")
    with pytest.raises(InvalidRequest, match="does not exist"):
        load_training_state(tmp_path / "absent.pt")


def test_a_pickle_that_torch_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "state.pkl").write_bytes(pickle.dumps({"nu": np.ones((2, 2))}))
    with pytest.raises(InvalidRequest, match=r"state\.pkl' holds .*; save .*with save_training_state\.$"):
        load_training_state(tmp_path / "state.pkl")


def test_a_file_of_keras_needs_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.keras").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InvalidRequest, match=r"is read with h5py; pip install h5py"):
        load_training_state(tmp_path / "run.keras")
