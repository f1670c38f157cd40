"""Moderate overparameterization (Oymak & Soltanolkotabi 2019): when and how fast gradient descent fits any labels.

One hidden layer, ``f = φ(X W^T) v`` with a fixed ``v``, trained on the summed loss ``1/2 Σ_i (f(x_i) - y_i)²``.
"""

from lightning_bounds.theory.overparameterization.conditioning import (
    kappa,
    kappa_tilde,
    neural_eigenvalue,
    neural_eigenvalue_bound,
    output_eigenvalue,
    output_eigenvalue_bound,
    separation_eigenvalue_bound,
)
from lightning_bounds.theory.overparameterization.convergence import (
    relu_guarantee,
    separated_guarantee,
    smooth_guarantee,
)
from lightning_bounds.theory.overparameterization.descent import nonsmooth_descent_guarantee, smooth_descent_guarantee
from lightning_bounds.theory.overparameterization.initialization import (
    Lemma,
    Perturbation,
    initial_residual_bound,
    initial_sigma_min,
    jacobian_lipschitz_constant,
    jacobian_norm_bound,
    output_weights,
    relu_jacobian_perturbation,
    spectral_norm,
)
from lightning_bounds.theory.overparameterization.khatri_rao import (
    khatri_rao_sigma_min,
    separation,
    smallest_eigenvalue,
)
from lightning_bounds.theory.overparameterization.random_features import (
    Interpolation,
    RandomFeatureGuarantee,
    random_feature_guarantee,
    random_feature_interpolation,
)
from lightning_bounds.theory.overparameterization.stochastic import sgd_guarantee, sphere_guarantee

__all__ = [
    "Interpolation",
    "Lemma",
    "Perturbation",
    "RandomFeatureGuarantee",
    "initial_residual_bound",
    "initial_sigma_min",
    "jacobian_lipschitz_constant",
    "jacobian_norm_bound",
    "kappa",
    "kappa_tilde",
    "khatri_rao_sigma_min",
    "neural_eigenvalue",
    "neural_eigenvalue_bound",
    "nonsmooth_descent_guarantee",
    "output_eigenvalue",
    "output_eigenvalue_bound",
    "output_weights",
    "random_feature_guarantee",
    "random_feature_interpolation",
    "relu_guarantee",
    "relu_jacobian_perturbation",
    "separated_guarantee",
    "separation",
    "separation_eigenvalue_bound",
    "sgd_guarantee",
    "smallest_eigenvalue",
    "smooth_descent_guarantee",
    "smooth_guarantee",
    "spectral_norm",
    "sphere_guarantee",
]
