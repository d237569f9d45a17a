# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The spectrum of the loss's Hessian, one layer's block at a time, from products of the Hessian with vectors.

Nothing is trained: the weights ask for gradients only inside `hessian_spectra` and are as before afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dyncompress.models.torch.calling import called, differentiable, flattened, placed
from dyncompress.types import Batch, HessianSpectrum


def hessian_spectra(
    module: nn.Module,
    targets: Mapping[str, nn.Module],
    *,
    need: HessianSpectrum,
    data: Sequence[Batch],
    names: Sequence[str],
    seed: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """`HessianSpectrum` of the layers, on the first `need.batches` batches; layers that the loss doesn't depend on are left out.

    Args:
        module: in eval mode.
        targets: layer -> the part of the module that holds its weight.
        need: how many nodes and batches.
        data: calibration batches.
        names: of the inputs.
        seed: of the random signs that Lanczos' recursion starts from.

    Cost: `nodes` Hessian-vector products a layer and batch, each about two backward passes; memory holds the graph of one batch
    and its derivative, and `nodes` copies of the largest weight.
    """
    weights = {name: layer.weight for name, layer in targets.items()}
    generators = {name: torch.Generator().manual_seed(seed) for name in weights}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with differentiable(module), _asking(weights.values()), sdpa_kernel(SDPBackend.MATH):
        for batch in data[: need.batches]:
            loss = own_loss(flattened(called(module, placed(batch, module, names), names)))
            if not loss.requires_grad:
                continue
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    spectrum = _spectrum(gradient, weight, need.nodes, generators[name])
                    found.setdefault(name, []).append(spectrum)
    return {name: (torch.stack([v for v, _ in parts]), torch.stack([c for _, c in parts])) for name, parts in found.items()}


def own_loss(outputs: Sequence[Tensor]) -> Tensor:
    """Cross-entropy with the largest score as label for scores `[n, classes]`; else half the squared distance to themselves.

    Both are means over examples, added up over outputs.
    """
    total = torch.zeros((), device=outputs[0].device)
    for output in outputs:
        if not output.is_floating_point():
            continue
        if output.ndim == 2 and output.shape[1] >= 2:
            total = total + functional.cross_entropy(output, output.detach().argmax(1))
        else:
            total = total + 0.5 * (output - output.detach()).square().sum() / max(len(output) if output.ndim else 1, 1)
    return total


def _spectrum(gradient: Tensor, weight: Tensor, nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Values and counts, each `[nodes]` float64, of the derivative of `gradient` by `weight`."""

    def product(vector: Tensor) -> Tensor:
        """The derivative in this direction."""
        if not gradient.requires_grad:
            return torch.zeros_like(vector)
        direction = vector.reshape(gradient.shape).to(gradient)
        (result,) = torch.autograd.grad(gradient, weight, direction, retain_graph=True, allow_unused=True)
        return torch.zeros_like(vector) if result is None else result.detach().reshape(-1).to(vector)

    size = weight.numel()
    values, counts = (torch.zeros(nodes, dtype=torch.float64, device=weight.device) for _ in range(2))
    if size <= nodes:
        unit = torch.eye(size, dtype=torch.float64, device=weight.device)
        matrix = torch.stack([product(row) for row in unit])
        values[:size], counts[:size] = torch.linalg.eigvalsh((matrix + matrix.mT) / 2), 1.0
        return values, counts
    start = (2 * torch.randint(0, 2, (size,), generator=generator) - 1).to(weight.device, torch.float64)
    ritz, shares = lanczos(product, start, nodes)
    values[: len(ritz)], counts[: len(ritz)] = ritz, size * shares
    return values, counts


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss quadrature for a symmetric operator's spectral measure at `start`.

    Lanczos' recursion with full reorthogonalisation, twice; it ends early where the space is exhausted. For random signs as
    start, size * weights estimate without bias how many eigenvalues lie at each node (stochastic Lanczos quadrature).

    Source: Golub, Welsch (1969); Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38 (2017).

    Example: with as many steps as dimensions the nodes are the eigenvalues.
        >>> diagonal = torch.tensor([3.0, 1.0], dtype=torch.float64)
        >>> nodes, _ = lanczos(lambda v: diagonal * v, torch.ones(2, dtype=torch.float64), 2)
        >>> [round(float(node), 6) for node in nodes]
        [1.0, 3.0]

    Args:
        product: `[n]` -> `[n]`, linear and symmetric.
        start: `[n]` float64, not zero.
        steps: at most so many products.

    Returns:
        nodes, ascending, and weights, which add up to 1; `[steps]` or fewer.
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    largest = 0.0
    for step in range(min(steps, len(start))):
        vector = product(basis[-1])
        diagonal.append(float(basis[-1] @ vector))
        if step + 1 == steps:
            break
        known = torch.stack(basis)
        for _ in range(2):
            vector = vector - known.mT @ (known @ vector)
        rest = float(vector.norm())
        largest = max(largest, abs(diagonal[-1]), rest)
        if rest <= 1e-10 * largest or len(basis) == len(start):
            break
        beside.append(rest)
        basis.append(vector / rest)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    off = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
    matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    nodes, vectors = torch.linalg.eigh(matrix)
    return nodes.to(start.device), vectors[0].square().to(start.device)


@contextmanager
def _asking(parameters: Iterable[Tensor]) -> Iterator[None]:
    """These ask for gradients inside this block, as leaves, and don't behind it."""
    held = list(parameters)
    for parameter in held:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(False)
