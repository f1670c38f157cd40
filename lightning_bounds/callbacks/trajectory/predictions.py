"""What a fixed kernel predicts for gradient descent, and how far the network's own kernel drifts from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_bounds.callbacks.two_layer import TwoLayer, flat_inputs
from lightning_bounds.jacobian.spectrum import Spectrum, gram_spectrum
from lightning_bounds.snapshot import Snapshot
from lightning_bounds.theory.fine_grained import relu_gram
from lightning_bounds.theory.fine_grained.extremes import largest_eigenvalue
from lightning_bounds.theory.information_space import linearized_displacement, linearized_residual

PREDICTIONS = ("linearized", "fine_grained")

# Products with a matrix for its norm, which then is off by far less than a drift of it could matter.
_PRODUCTS = 200

# Steps taken with each step size on the summed loss.
Steps = Mapping[float, int]


class Predicted(NamedTuple):
    """``residual`` ``r_t``, shape ``(n*K,)``, and ``distance`` ``|θ_t - θ_0|``; infinite where the descent diverges."""

    residual: Tensor
    distance: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """Gradient descent on the linear model of a kernel ``H = U diag(λ²) U^T``, from the residual ``r_0``.

    ``r_t = U Π_s (1 - η_s λ²) U^T r_0``, and ``θ_t - θ_0`` has the coefficients ``-(1 - Π_s (1 - η_s λ²)) / λ · a``.

    Attributes:
        singular_values: ``λ``, shape ``(n*K,)``.
        vectors: ``U``, columns.
        coefficients: ``a = U^T r_0``.

    References:
        Oymak et al. 2019, Eq. (5.9) and Lemma 6.5; Arora et al. 2019, Eqs. (8), (11) and (27).

    Example:
        >>> prediction = Prediction.of(gram_spectrum(torch.eye(2).double()), torch.tensor([3.0, 4.0]))
        >>> float(prediction.after({0.5: 2}).residual.norm()), prediction.after({0.5: 1, 0.0: 7}).distance
        (1.25, 2.5)
    """

    singular_values: Tensor
    vectors: Tensor
    coefficients: Tensor

    @classmethod
    def of(cls, spectrum: Spectrum, residual: Tensor) -> "Prediction":
        """The prediction of a kernel's spectrum, from ``r_0``, shape ``(n*K,)``."""
        vectors = spectrum.left_vectors.double()
        return cls(spectrum.singular_values.double(), vectors, vectors.T @ residual.to(vectors))

    def after(self, steps: Steps) -> Predicted:
        """Residual and distance after some steps; their order makes no difference."""
        left, moved = self.coefficients, torch.zeros_like(self.coefficients)
        for rate, count in steps.items():
            if rate == 0 or count == 0:
                continue
            moved = moved + linearized_displacement(self.singular_values, left, learning_rate=rate, steps=[count])[0]
            left = linearized_residual(self.singular_values, left, learning_rate=rate, steps=[count])[0]
            if not bool(left.isfinite().all() & moved.isfinite().all()):
                return Predicted(torch.full_like(left, torch.inf), torch.inf)
        return Predicted(self.vectors @ left, float(moved.norm()))


def fine_grained_spectrum(inputs: Tensor, output: Tensor) -> Spectrum:
    """Spectrum of ``H_infinity ⊗ V V^T``, the kernel of an infinitely wide ReLU network of which ``W`` is trained.

    For the paper's one output with entries ``±1/√width`` that is ``H_infinity``.

    Args:
        inputs: ``X``, shape ``(n, d)``, no zero rows.
        output: ``V``, shape ``(K, width)``.

    References:
        Arora et al. 2019, Eq. (3); Oymak et al. 2019, Eq. (6.32).

    Example:
        >>> fine_grained_spectrum(torch.eye(2), torch.tensor([[2.0, -2.0]])).singular_values
        tensor([2., 2.], dtype=torch.float64)
    """
    V = output.detach().double().cpu()
    return gram_spectrum(torch.kron(relu_gram(inputs), V @ V.T))


def made_predictions(
    names: Sequence[str] | None, snapshot: Snapshot, spectrum: Spectrum, residual: Tensor, network: TwoLayer | None
) -> dict[str, Prediction]:
    """Predictions by name, from the start; all that the network allows if no names are given.

    Args:
        names: Among ``PREDICTIONS``.
        snapshot: The probe's inputs.
        spectrum: Of the initial Jacobian.
        residual: ``r_0``, shape ``(n*K,)``.
        network: The two-layer network, if the module is one.

    Raises:
        ValueError: If the fine-grained prediction is asked for, and the module is not a two-layer ReLU network of
            which the hidden layer is trained.
    """
    fits = network is not None and network.activation == "relu" and network.trained == "hidden"
    if names is None:
        names = PREDICTIONS if fits else PREDICTIONS[:1]
    made = {"linearized": Prediction.of(spectrum, residual)} if "linearized" in names else {}
    if "fine_grained" not in names:
        return made
    if not fits or network is None:
        found = "another network" if network is None else f"{network.activation} with {network.trained} trained"
        raise ValueError(
            "Expected a two-layer ReLU network without biases, of which the hidden layer alone is trained, for the "
            f"fine-grained prediction, but got {found}; ask for predictions=['linearized']."
        )
    kernel = fine_grained_spectrum(flat_inputs(snapshot.inputs), network.output)
    return {**made, "fine_grained": Prediction.of(kernel, residual)}


def prediction_values(prediction: Prediction, steps: Steps, residual: Tensor, start: float) -> dict[str, float]:
    """Predicted residual norm and distance, and ``|r_t - r~_t| / |r_0|``; nothing where the prediction diverges.

    Args:
        prediction: The prediction.
        steps: Steps taken so far.
        residual: Measured ``r_t``, shape ``(n*K,)``.
        start: ``|r_0|``.
    """
    predicted = prediction.after(steps)
    values = {
        "residual": float(predicted.residual.norm()),
        "distance": predicted.distance,
        "deviation": float((residual.to(predicted.residual) - predicted.residual).norm()) / start,
    }
    return {name: value for name, value in values.items() if value < torch.inf}


def kernel_values(gram: Tensor, initial: Tensor, learning_rate: float | None) -> dict[str, float]:
    """How far the kernel is from the initial one, and whether a step size is stable for it.

    Args:
        gram: ``H(t) = J J^T``, shape ``(n*K, n*K)``.
        initial: ``H(0)``.
        learning_rate: ``η`` of the summed loss, if it is known.

    Returns:
        ``drift`` (``|H(t) - H(0)|_F / |H(0)|_F``), ``spectral_drift`` (the same in spectral norms) and ``stability``
        (``η λ_max(H(t))``).

    Example:
        >>> values = kernel_values(3 * torch.eye(4), 2 * torch.eye(4), learning_rate=0.5)
        >>> {name: round(value, 6) for name, value in values.items()}
        {'drift': 0.5, 'spectral_drift': 0.5, 'stability': 1.5}
    """
    gram, initial = gram.double().cpu(), initial.double()
    change, size = gram - initial, _spectral_norm(initial)
    values = {}
    if size > 0:
        values["drift"] = float(change.norm() / initial.norm())
        values["spectral_drift"] = _spectral_norm(change) / size
    if learning_rate is not None:
        values["stability"] = learning_rate * _spectral_norm(gram)
    return values


def _spectral_norm(symmetric: Tensor) -> float:
    squared = largest_eigenvalue(lambda v: symmetric @ (symmetric @ v), symmetric[0], _PRODUCTS)
    return squared.value**0.5
