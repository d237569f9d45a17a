"""Networks that run on one batch size alone, and networks that remember."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.models.torch.batches import resize_batch
from dyncompress.models.torch.opening import open_model
from tests.running import session_of
from tests.traits import batches
from tests.traits.subject import randn, seeded

TARGET = "onnxruntime-x86-vnni"
FIXED = {
    "batch 1, recurrent": (batches.SUBJECTS["batch 1, recurrent"], 1),
    "batch 1, convolution": (batches.SUBJECTS["batch 1, convolution"], 1),
    "batches of four": (batches.SUBJECTS["batches of four"], 4),
}


@pytest.mark.parametrize("recipe", ["edge-int8", "edge-int4", "sparse"])
@pytest.mark.parametrize("name", FIXED)
def test_a_file_has_the_one_batch_size_that_the_model_runs_on(name: str, recipe: str) -> None:
    subject, size = FIXED[name]
    model, data = subject.model(), subject.data()
    file = dc.compress(model, recipe, target=TARGET, calibration=data)
    session = session_of(file.body)
    assert session.get_inputs()[0].shape[0] == size
    assert any(f"fixed at {size}, the only one that the model runs on" in note for note in file.notes)
    x = data[3]
    with torch.no_grad():
        wanted = model(x).numpy()
    found = session.run(None, {"x": x.numpy()})[0]
    assert np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < (0.05 if recipe != "sparse" else 0.8)


def test_a_file_of_one_batch_size_is_certified_in_one_call_and_verb_by_verb() -> None:
    subject, _ = FIXED["batches of four"]
    model, x = subject.model(), randn(402, 20, seed=9)
    with torch.no_grad():
        y = torch.cat([model(part).argmax(1) for part in resize_batch({"x": x}, 404)["x"].split(4)])[:402]
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=subject.data(), held_out=(x, y))
    assert file.certificate is not None and file.certificate.counts["original_errors"] == 0
    bare = dc.compress(model, "edge-int8", target=TARGET, calibration=subject.data())
    assert dc.certify(bare, reference=model, held_out=(x, y)).certificate is not None


def test_the_private_copy_takes_any_number_of_examples() -> None:
    subject, _ = FIXED["batches of four"]
    model, x = subject.model(), randn(10, 20)
    adapter = open_model(model, {"x": x[:2]}, {"x": x[:4]})
    with torch.no_grad():
        wanted = torch.cat([model(part) for part in (x[:4], x[4:8], torch.cat([x[8:], x[8:]]))])[:10]
    for found in (adapter.predict({"x": x})[0], adapter.original({"x": x})[0]):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert adapter.size == 4 and open_model(seeded(lambda: nn.Linear(20, 5))(), {"x": x[:2]}, {"x": x[:4]}).size == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_a_copy_of_a_model_whose_forward_is_wrapped_twice_computes_with_its_own_weights(kind: torch.dtype) -> None:
    model, data = batches.SUBJECTS["batches of four"].model().to(kind), [randn(4, 20, seed=i).to(kind) for i in range(16)]
    file = dc.compress(model, "edge-int4", target=TARGET, calibration=data)
    with torch.no_grad():
        wanted = model(data[3]).float().numpy()
    found = session_of(file.body).run(None, {"x": data[3].float().numpy()})[0]
    assert file.plan.share_left_alone["weights"] == 0
    assert np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < 0.1
    adapter = open_model(model, {"x": data[0]}, {"x": data[0]})
    other = adapter.edited([dc.types.SetWeight("b", torch.zeros(5, 64), torch.zeros(5))])
    assert not other.predict({"x": data[0]})[0].any() and adapter.predict({"x": data[0]})[0].any()


def test_one_example_does_not_fix_the_batch_of_a_model_that_takes_more() -> None:
    model, data = seeded(lambda: nn.Linear(20, 5))(), [randn(1, 20, seed=i) for i in range(32)]
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=data)
    assert session_of(file.body).get_inputs()[0].shape[0] == "batch"


def test_a_state_that_is_kept_between_calls_is_refused_with_its_buffer() -> None:
    subject = batches.SUBJECTS["a state in a buffer"]
    model = subject.model()
    with pytest.raises(dc.InvalidRequest, match=r"keeps a state in buffer 'state'.*an input and an output"):
        dc.compress(model, "edge-int8", target=TARGET, calibration=subject.data())
    assert not model.state.any(), "the caller's state stays"


class Cached(nn.Module):
    """Keeps a table that it makes in its first pass, and counts its calls: neither changes an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(8, 32), nn.Linear(32, 5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("table", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.table = torch.linspace(0, 1, 32)
        return self.o(self.a(x).relu() + self.table)


def test_a_cache_and_a_counter_are_no_state() -> None:
    model, x = seeded(Cached)(), randn(64, 8)
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=x)
    with torch.no_grad():
        wanted = model(x).numpy()
    found = session_of(file.body).run(None, {"x": x.numpy()})[0]
    assert np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < 0.05


class TimeFirst(nn.Module):
    """A recurrent net as torch's own are by default: time is the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.o = nn.GRU(8, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.g(x)[0])


class BatchStatistics(nn.Module):
    """Normalises by the batch that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(8, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(nn.functional.batch_norm(self.a(x), None, None, training=True).relu())


@pytest.mark.parametrize(("build", "x"), [(TimeFirst, randn(6, 64, 8)), (BatchStatistics, randn(64, 8))])
def test_answers_that_mix_the_examples_of_a_batch_are_refused(build: type[nn.Module], x: Tensor) -> None:
    with pytest.raises(dc.InvalidRequest, match="changes with the others in its batch"):
        dc.compress(seeded(build)(), "edge-int8", target=TARGET, calibration=x)


class Pairwise(nn.Module):
    """Compares all examples with each other: its output has an entry for each pair."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.normalize(self.a(x))
        return y @ y.T


def test_an_output_of_pairs_is_no_answer_that_is_mixed() -> None:
    model, x = seeded(Pairwise)(), randn(4, 8)
    assert open_model(model, {"x": x[:2]}).size == 0


class WritesIntoItsInput(nn.Module):
    """Normalises in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(8, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(1).div_(2)
        return self.o(self.a(x).relu_())


@pytest.mark.parametrize("as_array", [False, True])
def test_the_data_are_never_written_into(as_array: bool) -> None:
    model, x = seeded(WritesIntoItsInput)(), randn(64, 8)
    data = x.numpy().copy() if as_array else x.clone()
    file = dc.compress(model, "edge-int4", target=TARGET, calibration=data)
    assert np.array_equal(np.asarray(data), x.numpy())
    with torch.no_grad():
        wanted = model(x.clone()).numpy()
    found = session_of(file.body).run(None, {"x": x.numpy()})[0]
    assert np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < 0.1


class Branches(nn.Module):
    """One of two layers, by the number of inputs: the other is never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.a(x) if x.shape[1] == 8 else self.b(x)).relu())


def test_a_layer_that_no_example_reaches_is_left_alone_with_a_reason() -> None:
    file = dc.compress(seeded(Branches)(), "edge-int4", target=TARGET, calibration=randn(64, 8))
    assert "never called" in file.plan.reasons["b"]


def test_layers_that_simulate_quantization_are_refused_with_what_to_do() -> None:
    from torch.ao.quantization import FakeQuantize

    model = nn.Sequential(FakeQuantize(), nn.Linear(8, 5)).eval()
    with pytest.raises(dc.Unsupported, match=r"simulates quantization \(FakeQuantize\); replace such layers"):
        dc.compress(model, "edge-int8", target=TARGET, calibration=randn(64, 8))
