"""Our methods, those of the torch.func tutorial, and the plain loop.

A method takes ``(case, network, inputs, previous)``, where ``previous`` is the network some steps earlier, and returns
the function to be timed. That gives a Gram matrix (sample-major) or leading singular values with their left vectors.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from benchmarking.cases import Case
from benchmarking.worker import UnavailableError
from lightning_bounds import JacobianOperator, jacobian_spectrum
from lightning_bounds.jacobian.parameters import selected_parameters

Run = Callable[[], Any]
Method = Callable[[Case, nn.Module, Tensor, nn.Module], Run]


def gram_methods(case: Case) -> dict[str, Method]:
    """Methods of this file for Gram matrices by the name that the table shows."""
    methods: dict[str, Method] = {"ours float32": partial(_ours, dtype=torch.float32)}
    if case.work != "cost":
        methods |= {
            "ours float64 (default)": partial(_ours, dtype=torch.float64),
            "torch.func jacobian, chunks of 16": partial(_jacobian_product, chunk=16),
            "torch.func jacobian, chunks of 64": partial(_jacobian_product, chunk=64),
            "torch.func contraction (tutorial)": _contraction,
            "torch.func vector products (tutorial)": _vector_products,
            "plain loop": _loop,
        }
    if case.memory_budget:
        methods["ours float32, within the budget"] = partial(_ours, dtype=torch.float32, budgeted=True)
    return methods


def triplet_methods() -> dict[str, Method]:
    """Methods of this file for leading singular triplets by the name that the table shows."""
    return {
        "ours cold": _ours_cold,
        "ours warm": _ours_warm,
        "torch.func jacobian + svd_lowrank, 6 iterations": partial(_svd_lowrank, niter=6),
        "torch.func jacobian + svd_lowrank, 12 iterations": partial(_svd_lowrank, niter=12),
        "torch.func jacobian + Gram + eigh": _jacobian_eigh,
    }


def _ours(
    case: Case, network: nn.Module, inputs: Tensor, _: nn.Module, dtype: torch.dtype, budgeted: bool = False
) -> Run:
    budget = case.memory_budget if budgeted else None
    return lambda: JacobianOperator(network, inputs, layers=case.layers).gram(dtype, memory_budget=budget)


def _ours_cold(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module) -> Run:
    options = {"tolerance": 1e-3} if _spectrum_takes("tolerance") else {}
    return lambda: _triplets(_spectrum(case, network, inputs, **options))


def _ours_warm(case: Case, network: nn.Module, inputs: Tensor, previous: nn.Module) -> Run:
    if not _spectrum_takes("start"):
        raise UnavailableError("jacobian_spectrum of this version has no warm start")
    start = _spectrum(case, previous, inputs, tolerance=1e-3)
    return lambda: _triplets(_spectrum(case, network, inputs, tolerance=1e-3, start=start))


def _spectrum(case: Case, network: nn.Module, inputs: Tensor, **options: Any) -> Any:
    return jacobian_spectrum(
        JacobianOperator(network, inputs),
        rank=case.rank,
        dtype=torch.float32,
        memory_budget=case.memory_budget,
        **options,
    )


def _spectrum_takes(argument: str) -> bool:
    return argument in inspect.signature(jacobian_spectrum).parameters


def _triplets(spectrum: Any) -> tuple[Tensor, Tensor]:
    return spectrum.singular_values, spectrum.left_vectors


def _functional(
    case: Case, network: nn.Module
) -> tuple[dict[str, Tensor], Callable[[dict[str, Tensor], Tensor], Tensor]]:
    """Selected parameters, and the outputs of one sample as a function of them."""
    every = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def outputs(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(network, {**every, **values}, (x[None],))[0]

    return {name: every[name] for name in selected_parameters(network, case.layers)}, outputs


def _jacobian(case: Case, network: nn.Module, inputs: Tensor, chunk: int) -> Tensor:
    parameters, outputs = _functional(case, network)
    size = sum(parameter.numel() for parameter in parameters.values())
    J = torch.empty(len(inputs), case.num_outputs, size)
    row = 0
    for batch in inputs.split(chunk):
        column = 0
        for part in vmap(jacrev(outputs), (None, 0))(parameters, batch).values():
            flat = part.flatten(2)
            J[row : row + len(batch), :, column : column + flat.shape[2]] = flat
            column += flat.shape[2]
        row += len(batch)
    return J.flatten(0, 1)


def _jacobian_product(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module, chunk: int) -> Run:
    def run() -> Tensor:
        J = _jacobian(case, network, inputs, chunk)
        return J @ J.T

    return run


def _contraction(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module) -> Run:
    parameters, outputs = _functional(case, network)

    def run() -> Tensor:
        parts = [part.flatten(2) for part in vmap(jacrev(outputs), (None, 0))(parameters, inputs).values()]
        gram = torch.stack([torch.einsum("Naf,Mbf->NaMb", part, part) for part in parts]).sum(0)
        return gram.flatten(2).flatten(0, 1)

    return run


def _vector_products(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module) -> Run:
    parameters, outputs = _functional(case, network)

    def block(x1: Tensor, x2: Tensor) -> Tensor:
        _, pullback = vjp(lambda values: outputs(values, x1), parameters)

        def row(unit: Tensor) -> Tensor:
            return jvp(lambda values: outputs(values, x2), (parameters,), pullback(unit))[1]

        return vmap(row)(torch.eye(case.num_outputs))

    def run() -> Tensor:
        gram = vmap(vmap(block, (None, 0)), (0, None))(inputs, inputs)
        return gram.transpose(1, 2).flatten(2).flatten(0, 1)

    return run


def _loop(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module) -> Run:
    parameters = list(selected_parameters(network, case.layers).values())

    def run() -> Tensor:
        J = torch.empty(case.num_samples * case.num_outputs, sum(parameter.numel() for parameter in parameters))
        for i, x in enumerate(inputs):
            outputs = network(x[None])[0]
            for c, output in enumerate(outputs):
                gradients = torch.autograd.grad(output, parameters, retain_graph=c + 1 < len(outputs))
                J[i * case.num_outputs + c] = torch.cat([gradient.flatten() for gradient in gradients])
        return J @ J.T

    return run


def _svd_lowrank(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module, niter: int) -> Run:
    def run() -> tuple[Tensor, Tensor]:
        U, sigma, _ = torch.svd_lowrank(_jacobian(case, network, inputs, chunk=32), q=case.rank + 10, niter=niter)
        return sigma[: case.rank], U[:, : case.rank]

    return run


def _jacobian_eigh(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module) -> Run:
    def run() -> tuple[Tensor, Tensor]:
        J = _jacobian(case, network, inputs, chunk=32)
        eigenvalues, eigenvectors = torch.linalg.eigh(J @ J.T)
        return eigenvalues[-case.rank :].flip(0).clamp_min(0).sqrt(), eigenvectors[:, -case.rank :].flip(1)

    return run
