"""Expectations over Gaussian weights ``w ~ N(0, I)``: covariances, Hermite coefficients, constants of activations."""

from lightning_bounds.theory.gaussian.activations import DerivativeBounds, activation_function, derivative_bounds
from lightning_bounds.theory.gaussian.arc_cosine import (
    relu_derivative_covariance,
    relu_neural_covariance,
    relu_output_covariance,
)
from lightning_bounds.theory.gaussian.covariance import derivative_covariance, neural_covariance, output_covariance
from lightning_bounds.theory.gaussian.hermite import ActivationConstants, activation_constants, hermite_coefficient
from lightning_bounds.theory.gaussian.monte_carlo import Estimate, monte_carlo_covariance

__all__ = [
    "ActivationConstants",
    "DerivativeBounds",
    "Estimate",
    "activation_constants",
    "activation_function",
    "derivative_bounds",
    "derivative_covariance",
    "hermite_coefficient",
    "monte_carlo_covariance",
    "neural_covariance",
    "output_covariance",
    "relu_derivative_covariance",
    "relu_neural_covariance",
    "relu_output_covariance",
]
