# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The spectrum of the loss's Hessian, one layer's block at a time, from Hessian-vector products.

Nothing is trained. The weights require gradients inside `hessian_spectra` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dyncompress.models.torch.calling import call_calibration_batch, device_inputs, differentiable, tensors_of
from dyncompress.models.torch.layer_trace import SelectedLayers
from dyncompress.types import Batch, HessianSpectrum


def hessian_spectra(
    layers: SelectedLayers, need: HessianSpectrum, data: Sequence[Batch], seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """The spectrum of the loss's Hessian with respect to each layer's weight, estimated by stochastic Lanczos quadrature.

    The loss is `own_loss`. Layers that it doesn't depend on are left out.

    Cost: `need.nodes` Hessian-vector products a layer and batch, each about two backward passes. Memory: the graph of one batch
    and its derivative, and `need.nodes` copies of the largest weight.

    Args:
        layers: the network and the layers.
        need: number of nodes, and number of batches.
        data: calibration batches, of which the first `need.batches` are used.
        seed: of the random signs that Lanczos' recursion starts from.

    Returns:
        layer -> (eigenvalues, counts), each `[batches, nodes]` float64; a count says how many eigenvalues its node stands for.

    Raises:
        InvalidRequest: a batch doesn't fit the model.
    """
    module, names = layers.module, layers.input_names
    weights = {name: layer.weight for name, layer in layers.modules.items()}
    generators = {name: torch.Generator().manual_seed(seed) for name in weights}
    spectra: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with differentiable(module), _requiring_gradients(weights.values()), sdpa_kernel(SDPBackend.MATH):
        for batch in data[: need.batches]:
            loss = own_loss(tensors_of(call_calibration_batch(module, device_inputs(batch, module, names), names)))
            if not loss.requires_grad:
                continue
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:
                    spectrum = _spectrum(gradient, weight, need.nodes, generators[name])
                    spectra.setdefault(name, []).append(spectrum)
    return {name: (torch.stack([v for v, _ in parts]), torch.stack([c for _, c in parts])) for name, parts in spectra.items()}


def own_loss(outputs: Sequence[Tensor]) -> Tensor:
    """A loss without labels, which the model's own outputs minimise or nearly so: a mean over examples, added up over outputs.

    For scores `[n, classes]`: the cross-entropy with the class of the largest score as label. For any other floating-point
    output: half the squared distance to its own value, whose gradient is zero and whose Hessian is the Gauss-Newton matrix.
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
    """Eigenvalues and counts, each `[nodes]` float64, of the Hessian block: the derivative of `gradient` by `weight`."""

    def product(vector: Tensor) -> Tensor:
        """The Hessian-vector product with this direction, `[size]`."""
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

    Lanczos' recursion with full reorthogonalisation, applied twice. It ends early where the Krylov space is exhausted. With
    random signs as start, size * weights is an unbiased estimate of the number of eigenvalues at each node (stochastic Lanczos
    quadrature).

    **Source**: Golub, Welsch (1969); Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38 (2017).

    Example: with as many steps as dimensions the nodes are the eigenvalues.
        >>> diagonal = torch.tensor([3.0, 1.0], dtype=torch.float64)
        >>> nodes, _ = lanczos(lambda v: diagonal * v, torch.ones(2, dtype=torch.float64), 2)
        >>> [round(float(node), 6) for node in nodes]
        [1.0, 3.0]

    Args:
        product: `[n]` -> `[n]`, linear and symmetric.
        start: `[n]` float64, not zero.
        steps: largest number of products.

    Returns:
        nodes in ascending order, and weights that add up to 1; each `[steps]` or shorter.
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    largest = 0.0
    for step in range(min(steps, len(start))):
        vector = product(basis[-1])
        diagonal.append(float(basis[-1] @ vector))
        if step + 1 == steps:
            break
        rows = torch.stack(basis)
        for _ in range(2):
            vector = vector - rows.mT @ (rows @ vector)
        rest = float(vector.norm())
        largest = max(largest, abs(diagonal[-1]), rest)
        if rest <= 1e-10 * largest or len(basis) == len(start):
            break
        off_diagonal.append(rest)
        basis.append(vector / rest)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    off = torch.tensor(off_diagonal[: len(diagonal) - 1], dtype=torch.float64)
    matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    nodes, vectors = torch.linalg.eigh(matrix)
    return nodes.to(start.device), vectors[0].square().to(start.device)


@contextmanager
def _requiring_gradients(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside this block these tensors require gradients; afterwards they don't."""
    leaves = list(parameters)
    for parameter in leaves:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in leaves:
            parameter.requires_grad_(False)
