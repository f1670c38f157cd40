"""neural-tangents in an environment of its own: ``python neural_tangents_worker.py DESCRIPTOR FOLDER CASE METHOD``.

Needs neural-tangents 0.6.5 with jax 0.4.25 (with 0.4.30 its structured derivatives fail), and neither torch nor our
package. ``CASE`` is JSON.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from judge import gram_errors
from worker import UnavailableError, serve

METHODS = {
    "neural-tangents contraction": "JACOBIAN_CONTRACTION",
    "neural-tangents structured": "STRUCTURED_DERIVATIVES",
}


def prepare(folder: Path, case: dict[str, Any], method: str) -> Callable[[], np.ndarray]:
    """The function to be timed; its first call compiles."""
    try:
        import jax
        import neural_tangents as nt
    except Exception as error:  # a jax that is too new fails in many ways
        raise UnavailableError(f"no neural-tangents in this python ({type(error).__name__}: {error})") from error
    with np.load(folder / "case.npz") as arrays:
        inputs = arrays["inputs"]
        weights = {name.removeprefix("weights/"): arrays[name] for name in arrays.files if name.startswith("weights/")}
    # Its structured rules know x W, not x W^T.
    weights = {name: weight.T.copy() if weight.ndim == 2 else weight for name, weight in weights.items()}
    if case["network"] == "mlp":
        function, parameters = _mlp(weights, case["layers"])
    else:
        function, parameters = _resnet(weights)
        inputs = inputs.transpose(0, 2, 3, 1)
    implementation = getattr(nt.NtkImplementation, METHODS[method])
    kernel = nt.empirical_ntk_fn(function, trace_axes=(), vmap_axes=0, implementation=implementation)
    inputs = jax.numpy.asarray(inputs)
    n, K = case["num_samples"], case["num_outputs"]
    if case["network"] == "resnet" and n % 64 == 0:
        kernel = nt.batch(kernel, batch_size=64, device_count=0, store_on_device=False)
    else:
        kernel = jax.jit(kernel)

    def run() -> np.ndarray:
        return np.asarray(kernel(inputs, None, parameters)).transpose(0, 2, 1, 3).reshape(n * K, n * K)

    return run


def _mlp(weights: dict[str, np.ndarray], layers: list[str] | None) -> tuple[Callable[..., Any], dict[str, np.ndarray]]:
    import jax.numpy as jnp

    names = [name for name in weights if layers is None or name.split(".")[0] in layers]
    frozen = {name: jnp.asarray(weight) for name, weight in weights.items() if name not in names}

    def function(parameters: dict[str, Any], x: Any) -> Any:
        every = frozen | parameters
        return jnp.maximum(x @ every["hidden.weight"], 0) @ every["output.weight"]

    return function, {name: jnp.asarray(weights[name]) for name in names}


def _resnet(weights: dict[str, np.ndarray]) -> tuple[Callable[..., Any], dict[str, np.ndarray]]:
    import jax.numpy as jnp
    from jax.lax import conv_general_dilated

    def convolution(parameters: dict[str, Any], name: str, x: Any, stride: int = 1) -> Any:
        y = conv_general_dilated(
            x,
            parameters[f"{name}.weight"],
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + parameters[f"{name}.bias"]

    def function(parameters: dict[str, Any], x: Any) -> Any:
        x = jnp.maximum(convolution(parameters, "stem", x), 0)
        for block in range(9):
            stride = 2 if block in (3, 6) else 1
            hidden = jnp.maximum(convolution(parameters, f"blocks.{block}.first", x, stride), 0)
            branch = convolution(parameters, f"blocks.{block}.last", hidden)
            shortcut = x[:, ::stride, ::stride]
            new_channels = branch.shape[3] - shortcut.shape[3]
            x = jnp.maximum(jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, new_channels))) + branch, 0)
        return x.mean(axis=(1, 2)) @ parameters["output.weight"] + parameters["output.bias"]

    # Channels last, which is what XLA's convolutions are fast at.
    return function, {
        name: jnp.asarray(weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight)
        for name, weight in weights.items()
    }


if __name__ == "__main__":
    descriptor, folder, case, method = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
    serve(
        Connection(descriptor),
        partial(prepare, folder, case, method),
        lambda gram: gram_errors(gram, folder, np.linalg.eigvalsh),
    )
