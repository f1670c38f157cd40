"""A case on disk: its network, its samples, and the float64 truth that results are judged by."""

import json
from pathlib import Path

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from benchmarking.cases import GIB, Case, differentiable_attention, inputs_of, network_of
from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.parameters import selected_parameters

# An explicit float64 Jacobian up to this size is the truth; beyond it, a Gram matrix that random products confirm.
_EXPLICIT_BYTES = 4 * GIB
# All eigenvalues of larger Gram matrices take minutes for each method and are left out.
_DECOMPOSED = 8192
_BATCH = 32
_TOLERANCE = 1e-9


def prepare_case(case: Case, folder: Path) -> None:
    """Write ``case.npz`` (network, the same network earlier in its training, samples) and the truth into ``folder``.

    The network of a case of triplets has been trained for some steps, so that a warm start has something to start from.
    """
    torch.manual_seed(0)
    network, inputs = network_of(case), inputs_of(case)
    states = {"previous": network.state_dict(), "weights": network.state_dict()}
    if case.quantity == "triplets":
        states["previous"] = _trained(network, inputs, steps=20)
        states["weights"] = _trained(network, inputs, steps=10)
    arrays = {f"{part}/{name}": tensor.numpy() for part, state in states.items() for name, tensor in state.items()}
    np.savez(folder / "case.npz", inputs=inputs.numpy(), **arrays)
    if case.work == "cost":
        return
    how, gram = _true_gram(case, network.double(), inputs.double() if inputs.is_floating_point() else inputs)
    np.save(folder / "gram.npy", gram.numpy())
    if case.quantity == "triplets" or len(gram) <= _DECOMPOSED:
        np.save(folder / "singular_values.npy", _true_singular_values(gram, case.rank))
    (folder / "truth.json").write_text(json.dumps({"how": how}))


def load_case(case: Case, folder: Path, part: str = "weights") -> tuple[nn.Module, Tensor]:
    """Network and samples as :func:`prepare_case` left them."""
    with np.load(folder / "case.npz") as arrays:
        network = network_of(case)
        prefix = f"{part}/"
        state = {
            name[len(prefix) :]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(prefix)
        }
        network.load_state_dict(state)
        return network, torch.from_numpy(arrays["inputs"])


def _trained(network: nn.Module, inputs: Tensor, steps: int) -> dict[str, Tensor]:
    """The state after some more steps towards labels that a linear function of the pixels gives."""
    generator = torch.Generator().manual_seed(2)
    K = network(inputs[:1]).shape[1]
    labels = (inputs.flatten(1) @ torch.randn(inputs[0].numel(), K, generator=generator)).argmax(dim=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (min(64, len(inputs)),), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _true_gram(case: Case, network: nn.Module, inputs: Tensor) -> tuple[str, Tensor]:
    if case.network == "mlp":
        return "closed form of the two-layer network, float64", closed_form(network, inputs, case.layers)
    parameters = {name: p.detach() for name, p in selected_parameters(network, case.layers).items()}
    size = sum(p.numel() for p in parameters.values())
    with differentiable_attention():
        if case.num_samples * case.num_outputs * size * 8 <= _EXPLICIT_BYTES:
            return "explicit Jacobian by torch.func, float64", _explicit(network, parameters, inputs)
        gram = JacobianOperator(network, inputs, layers=case.layers).gram(memory_budget=6 * GIB)
        error = _disagreement(gram, network, parameters, inputs)
    if error > _TOLERANCE:
        raise ArithmeticError(
            f"Expected the float64 truth to agree with J (J^T u) of torch.func to {_TOLERANCE:g}, but got {error:.3g}."
        )
    return f"our Gram matrix, float64; differs from J (J^T u) of torch.func by {error:.1g}", gram


def closed_form(network: nn.Module, inputs: Tensor, layers: tuple[str, ...] | None) -> Tensor:
    """``K[(i,c),(j,d)] = (x_i·x_j) Σ_r V_cr V_dr φ'(w_r·x_i) φ'(w_r·x_j) + [c = d] φ(W x_i)·φ(W x_j)`` for ReLU ``φ``.

    The second part is that of the output layer, left out if only the hidden one is asked for.
    """
    W, V = network.hidden.weight.detach(), network.output.weight.detach()
    n, K = len(inputs), len(V)
    preactivations = inputs @ W.T
    backward = ((preactivations > 0).to(V.dtype)[:, None, :] * V).reshape(n * K, -1)
    gram = (inputs @ inputs.T).repeat_interleave(K, 0).repeat_interleave(K, 1) * (backward @ backward.T)
    if layers is None:
        hidden = preactivations.clamp_min(0)
        gram += torch.kron(hidden @ hidden.T, torch.eye(K, dtype=V.dtype))
    return gram


def _explicit(network: nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
    def outputs(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(network, values, (x[None],))[0]

    rows = []
    for batch in inputs.split(_BATCH):
        parts = torch.func.vmap(torch.func.jacrev(outputs), (None, 0))(parameters, batch)
        rows.append(torch.cat([part.flatten(2) for part in parts.values()], dim=2).flatten(0, 1))
    J = torch.cat(rows)
    return J @ J.T


def _disagreement(gram: Tensor, network: nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> float:
    """Largest relative difference of ``G u`` and ``J (J^T u)`` for some random ``u``, by torch.func."""
    generator = torch.Generator().manual_seed(3)
    worst = 0.0
    for _ in range(3):
        u = torch.randn(len(gram), generator=generator, dtype=torch.float64)
        columns = u.reshape(len(inputs), -1).split(_BATCH)
        pieces = list(zip(inputs.split(_BATCH), columns, strict=True))
        v = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for x, part in pieces:
            # The loop needs the batch in the function, and calls it at once.
            _, pullback = torch.func.vjp(
                lambda values, x=x: torch.func.functional_call(network, values, (x,)), parameters
            )
            v = {name: v[name] + gradient for name, gradient in pullback(part)[0].items()}
        product = torch.cat(
            [
                torch.func.jvp(
                    lambda values, x=x: torch.func.functional_call(network, values, (x,)), (parameters,), (v,)
                )[1].flatten()
                for x, _ in pieces
            ]
        )
        worst = max(worst, float((gram @ u - product).norm() / product.norm()))
    return worst


def _true_singular_values(gram: Tensor, rank: int) -> np.ndarray:
    if rank and 3 * rank < len(gram):
        eigenvalues = scipy.sparse.linalg.eigsh(gram.numpy(), rank, tol=1e-12, return_eigenvectors=False)
    else:
        eigenvalues = torch.linalg.eigvalsh(gram).numpy()
    return np.sqrt(np.clip(np.sort(eigenvalues)[::-1], 0, None))
