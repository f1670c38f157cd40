"""Errors of a result against the float64 truth; numpy alone."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Singular values below this part of the largest are left out of the worst error.
RESOLVED = 1e-4


def gram_errors(gram: Any, folder: Path, eigvalsh: Callable[[Any], Any]) -> dict[str, float]:
    """Errors of a Gram matrix.

    Args:
        gram: Shape ``(n K, n K)``, sample-major.
        folder: Of the case, with the truth.
        eigvalsh: Eigenvalues of a symmetric matrix, ascending; timed, in the precision of ``gram``.

    Returns:
        ``gram_error``, relative in the Frobenius norm; ``singular_value_error``, the worst relative one among all
        above 1e-4 of the largest; ``top_error``, among the 50 largest; ``eigenvalue_seconds``. Only the first for
        matrices that are too large for the truth to have all singular values.
    """
    truth = np.load(folder / "gram.npy", mmap_mode="r")
    difference, total = 0.0, 0.0
    # In blocks: a float64 copy of the whole would be held while others run.
    for start in range(0, len(truth), 256):
        rows = np.asarray(truth[start : start + 256])
        difference += float(np.square(np.asarray(gram[start : start + 256], dtype=np.float64) - rows).sum())
        total += float(np.square(rows).sum())
    errors = {"gram_error": float(np.sqrt(difference / total))}
    if not (folder / "singular_values.npy").exists():
        return errors
    begin = time.perf_counter()
    eigenvalues = np.asarray(eigvalsh(gram), dtype=np.float64)
    seconds = time.perf_counter() - begin
    expected = np.load(folder / "singular_values.npy")
    relative = np.abs(np.sqrt(np.clip(eigenvalues, 0, None))[::-1] - expected) / expected.clip(
        np.finfo(np.float64).tiny
    )
    resolved = expected > RESOLVED * expected[0]
    return {
        **errors,
        "singular_value_error": float(relative[resolved].max()),
        "top_error": float(relative[:50][resolved[:50]].max()),
        "eigenvalue_seconds": seconds,
    }


def triplet_errors(singular_values: Any, left_vectors: Any, folder: Path) -> dict[str, float]:
    """Errors of leading singular triplets.

    Args:
        singular_values: Shape ``(r,)``, descending.
        left_vectors: Shape ``(n K, r)``, sample-major.
        folder: Of the case, with the truth.

    Returns:
        ``singular_value_error``, the worst relative one; ``residual``, the largest ``|J J^T u - σ² u| / σ_1²``.
    """
    sigma = np.asarray(singular_values, dtype=np.float64)
    U = np.asarray(left_vectors, dtype=np.float64)
    expected = np.load(folder / "singular_values.npy")[: len(sigma)]
    truth = np.load(folder / "gram.npy", mmap_mode="r")
    product = np.concatenate([np.asarray(truth[start : start + 256]) @ U for start in range(0, len(truth), 256)])
    residual = np.linalg.norm(product - U * sigma**2, axis=0)
    return {
        "singular_value_error": float((np.abs(sigma - expected) / expected).max()),
        "residual": float(residual.max() / expected[0] ** 2),
    }


def truth_note(folder: Path) -> str:
    """How the truth of a case was found, in words."""
    return str(json.loads((folder / "truth.json").read_text())["how"])
