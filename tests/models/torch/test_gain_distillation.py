"""Label-free distillation of gains and shifts."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.errors import InvalidRequest
from dyncompress.measures.divergence import divergence
from dyncompress.models.augmentation import augment
from dyncompress.models.torch.distillation import loss
from dyncompress.models.torch.gain_distillation import distill_gains
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Affine, Distillation, DistillationTask


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU(inplace=True),
            inner=nn.Conv2d(8, 8, 3, groups=2, bias=False),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(8, 5),
        )
    ).eval()


def tokens() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(first=nn.Linear(6, 12), act=nn.Tanh(), norm=nn.LayerNorm(12), second=nn.Linear(12, 4, bias=False))
    )


def batches(*shape: int, n: int = 64) -> list[dict[str, Tensor]]:
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))
    return [{"x": part} for part in x.split(20)]


NETWORKS = {"images": (convolutional, (3, 10, 12)), "sequences": (tokens, (7, 6)), "vectors": (tokens, (6,))}


def disturbed(model: TorchModel) -> TorchModel:
    """Gains and shifts that distillation can undo exactly."""
    generator = torch.Generator().manual_seed(2)
    edits = []
    for name in model.trace.modules:
        out = next(layer.out for layer in model.layers() if layer.name == name)
        gain = torch.empty(out).uniform_(0.7, 1.4, generator=generator)
        edits.append(Affine(name, gain, 0.1 * torch.randn(out, generator=generator)))
    return model.edited(edits)


def distance(one: TorchModel, two: TorchModel, data: list[dict[str, Tensor]]) -> float:
    outputs = [np.concatenate([m.predict(b)[0].numpy() for b in data]) for m in (one, two)]
    return divergence(*outputs)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_disturbance_of_gains_and_shifts_is_undone(kind: str) -> None:
    network, shape = NETWORKS[kind]
    data = batches(*shape)
    teacher = open_model(network(), data[0])
    student = disturbed(teacher)
    new, gains = distill_gains(student, teacher, data, DistillationTask(Distillation(epochs=40, rate=0.03, batch=16)))
    assert distance(teacher, new, data) < 0.05 * distance(teacher, student, data)
    assert set(gains) == set(teacher.trace.modules)


def test_the_new_model_is_the_old_one_with_the_gains_and_shifts_that_are_returned() -> None:
    data = batches(3, 10, 12)
    teacher = open_model(convolutional(), data[0])
    student = disturbed(teacher)
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    new, gains = distill_gains(student, teacher, data, DistillationTask(Distillation(epochs=2)))
    again = student.edited([Affine(name, *found) for name, found in gains.items()])
    assert all(torch.equal(a, b) for a, b in zip(new.module.parameters(), again.module.parameters(), strict=True))
    assert all(bool((gain > 0).all()) for gain, _ in gains.values())
    assert all(torch.equal(value, before[name]) for name, value in student.module.state_dict().items())
    assert all(p.requires_grad for p in student.module.parameters())


def test_a_seed_gives_the_same_result_twice_and_leaves_torch_s_own_alone() -> None:
    data = batches(3, 10, 12)
    teacher = open_model(convolutional(), data[0])
    student, state = disturbed(teacher), torch.random.get_rng_state()
    one, two, three = (
        distill_gains(student, teacher, data, DistillationTask(Distillation(epochs=2), seed))[1] for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name][i], two[name][i]) for name in one for i in (0, 1))
    assert any(not torch.equal(one[name][0], three[name][0]) for name in one)


def test_a_student_that_is_its_teacher_stays_as_it_is() -> None:
    data = batches(3, 10, 12)
    teacher = open_model(convolutional(), data[0])
    new, gains = distill_gains(teacher, teacher, data, DistillationTask(Distillation(epochs=2, rate=0.5)))
    assert all(torch.equal(gain, torch.ones_like(gain)) for gain, _ in gains.values())
    assert distance(teacher, new, data) < 1e-9


def test_without_gains_only_biases_move() -> None:
    data = batches(3, 10, 12)
    teacher = open_model(convolutional(), data[0])
    student = disturbed(teacher)
    new, gains = distill_gains(student, teacher, data, DistillationTask(Distillation(epochs=4), gains=False))
    assert all(torch.equal(gain, torch.ones_like(gain)) for gain, _ in gains.values())
    assert distance(teacher, new, data) < distance(teacher, student, data)


def test_layers_called_twice_or_sharing_their_weight_are_passed_over() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loop, self.tied, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.last.weight = self.tied.weight
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(torch.tanh(self.tied(torch.tanh(self.loop(self.loop(x)))))))

    torch.manual_seed(0)
    data = batches(6)
    teacher = open_model(Twice(), data[0])
    student = teacher.edited([Affine("head", torch.full((3,), 0.5), torch.zeros(3))])
    _, gains = distill_gains(student, teacher, data, DistillationTask(Distillation(epochs=1)))
    assert set(gains) == {"head"}


def test_a_module_that_wants_the_usual_memory_layout_is_run_in_it() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 64, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.head(y.view(len(y), -1))

    torch.manual_seed(0)
    data = batches(3, 10, 10)
    teacher = open_model(Viewing(), data[0])
    student = disturbed(teacher)
    new, _ = distill_gains(student, teacher, data, DistillationTask(Distillation(epochs=3)))
    assert distance(teacher, new, data) < distance(teacher, student, data)


def test_the_loss_of_scores_is_the_divergence_and_of_others_the_relative_error() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((9, 5), (9, 1), (9, 4, 3)):
        t, s = (3 * torch.randn(shape, generator=generator) for _ in range(2))
        assert float(loss([t], [s])) == pytest.approx(divergence(t.numpy(), s.numpy()), rel=1e-5)
    assert float(loss([t, torch.arange(3)], [s, torch.arange(3)])) == pytest.approx(float(loss([t], [s])))


def test_augmented_images_are_flips_and_shifts_of_their_own() -> None:
    x = torch.randn(40, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    moved = augment({"x": x}, Distillation(shift=2, mix=0.0), torch.Generator().manual_seed(0))["x"]
    padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
    seen = set()
    for image, wide in zip(moved, padded, strict=True):
        found = [
            (down, right, flip)
            for down in range(5)
            for right in range(5)
            for flip in (False, True)
            if torch.equal(image.flip(2) if flip else image, wide[:, down : down + 9, right : right + 11])
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 20
    vectors = {"ids": torch.arange(6).view(2, 3), "x": torch.randn(2, 3), "small": torch.randn(2, 3, 4, 4)}
    assert all(augment(vectors, Distillation(), torch.Generator())[name] is value for name, value in vectors.items())


def test_mixed_images_lie_between_two_images() -> None:
    x = torch.randn(12, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    mixed = augment({"x": x}, Distillation(shift=0, mix=1.0), torch.Generator().manual_seed(0))["x"]
    rows = x.flatten(1)
    for image in mixed.flatten(1):
        shares = torch.linalg.lstsq(rows.mT, image[:, None]).solution[:, 0]
        assert torch.allclose(rows.mT @ shares, image, atol=1e-4)
        assert float(shares.sum()) == pytest.approx(1, abs=1e-3)
        assert int((shares.abs() > 1e-4).sum()) <= 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", -1),
        ("weight_epochs", -1),
        ("rate", 0.0),
        ("weight_rate", 1.0),
        ("batch", 0),
        ("shift", -1),
        ("mix", 1.5),
        ("held_out", 1.0),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"distill.{key} is"):
        Recipe("any", distill=Distillation(**{key: value}))


def test_images_whose_left_isnt_their_right_are_shifted_alone() -> None:
    x = torch.randn(40, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    spec = Distillation(shift=2, mix=0.0)
    both, alone = (augment({"x": x}, spec, torch.Generator().manual_seed(0), horizontal_flip=m)["x"] for m in (True, False))
    same = [torch.equal(one, other) for one, other in zip(both, alone, strict=True)]
    assert 5 < sum(same) < 35
    padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
    places = [(down, right) for down in range(5) for right in range(5)]
    for image, wide in zip(alone, padded, strict=True):
        assert any(torch.equal(image, wide[:, down : down + 9, right : right + 11]) for down, right in places)
