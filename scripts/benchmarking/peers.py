"""nngeometry, and curvlinops with scipy; each is imported only where it is measured."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarking.cases import Case
from benchmarking.methods import Method, Run
from benchmarking.worker import UnavailableError
from lightning_bounds.jacobian.parameters import selected_parameters

_BATCH = 64


def peer_methods(case: Case) -> dict[str, Method]:
    """Methods of this file that there are for a case, by the name that the table shows."""
    if case.quantity == "triplets":
        return {"curvlinops + scipy svds": _curvlinops_svds}
    return {
        "nngeometry Jacobian": partial(_nngeometry, gram=False),
        "nngeometry Gram": partial(_nngeometry, gram=True),
        "curvlinops products": _curvlinops_gram,
    }


def _nngeometry(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module, gram: bool) -> Run:
    try:
        from nngeometry.gram import GramMatrix
        from nngeometry.jacobian import Jacobian
        from nngeometry.layercollection import LayerCollection
        from nngeometry.object import PFMapDense
    except ImportError as error:
        raise UnavailableError(f"not installed ({error})") from error
    layers = LayerCollection.from_model(network)
    if case.layers:
        layers = LayerCollection()
        for name in case.layers:
            layers.add_layer_from_model(network, network.get_submodule(name))
    # Its Gram matrix goes over all pairs of batches: few large ones are its best.
    loader = DataLoader(TensorDataset(inputs), batch_size=512 if gram else _BATCH)

    def by_gram() -> Tensor:
        data = GramMatrix(network, loader, layer_collection=layers).data
        return data.permute(1, 0, 3, 2).flatten(2).flatten(0, 1)

    def by_jacobian() -> Tensor:
        J = Jacobian(network, loader, representation=PFMapDense, layer_collection=layers).data
        K, n, _ = J.shape
        J = J.flatten(0, 1)
        return (J @ J.T).reshape(K, n, K, n).permute(1, 0, 3, 2).flatten(2).flatten(0, 1)

    return by_gram if gram else by_jacobian


def _curvlinops_operator(case: Case, network: nn.Module, inputs: Tensor) -> Any:
    try:
        from curvlinops import JacobianLinearOperator
    except ImportError as error:
        raise UnavailableError(f"not installed ({error})") from error
    chosen = {id(parameter) for parameter in selected_parameters(network, case.layers).values()}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    data = [(batch, torch.zeros(len(batch), case.num_outputs)) for batch in inputs.split(_BATCH)]
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return JacobianLinearOperator(network, parameters, data, check_deterministic=False, num_data=len(inputs))


def _curvlinops_gram(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module) -> Run:
    J = _curvlinops_operator(case, network, inputs)

    def run() -> Tensor:
        transpose = J.adjoint()
        columns = torch.eye(case.num_samples * case.num_outputs).split(16, dim=1)
        return torch.cat([J @ (transpose @ block) for block in columns], dim=1)

    return run


def _curvlinops_svds(case: Case, network: nn.Module, inputs: Tensor, _: nn.Module) -> Run:
    import scipy.sparse.linalg

    J = _curvlinops_operator(case, network, inputs).to_scipy(dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(min(J.shape)).astype(np.float32)

    def run() -> tuple[np.ndarray, np.ndarray]:
        U, sigma, _ = scipy.sparse.linalg.svds(J, k=case.rank, tol=1e-3, v0=start, return_singular_vectors="u")
        order = np.argsort(-sigma)
        return sigma[order], U[:, order]

    return run
