"""What runs in the children of the parent's own python: any function, or a method that serves its parent."""

from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarking.cases import Case, differentiable_attention
from benchmarking.judge import gram_errors, triplet_errors
from benchmarking.methods import Method, gram_methods, triplet_methods
from benchmarking.peers import peer_methods
from benchmarking.report import OBSERVED, PLAIN
from benchmarking.training import fingerprint, prepare_training
from benchmarking.truth import load_case
from benchmarking.worker import serve

NEURAL_TANGENTS = ("neural-tangents contraction", "neural-tangents structured")


def method_names(case: Case) -> list[str]:
    """The methods that a case is measured with, as the table shows them."""
    if case.quantity == "training":
        return [PLAIN, OBSERVED]
    foreign = NEURAL_TANGENTS if case.work in ("W1", "W2") else ()
    return [*_methods(case), *foreign]


def serve_method(connection: Connection, case: Case, folder: Path, method: str, images: Path | None) -> None:
    """Serve the parent with one method on one case."""
    torch.manual_seed(0)
    if case.quantity == "training":
        serve(connection, lambda: prepare_training(case, images, method), fingerprint)
        return

    def prepare() -> Callable[[], Any]:
        network, inputs = load_case(case, folder)
        previous = load_case(case, folder, "previous")[0] if case.quantity == "triplets" else network
        return _methods(case)[method](case, network, inputs, previous)

    def judge(result: Any) -> dict[str, float]:
        if case.work == "cost":
            return {}
        if case.quantity == "triplets":
            return triplet_errors(*result, folder)
        return gram_errors(result, folder, torch.linalg.eigvalsh)

    with differentiable_attention():
        serve(connection, prepare, judge)


def answer(connection: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    """Send the result of a function, or its exception."""
    try:
        connection.send(("done", function(*arguments)))
    except Exception as error:
        connection.send(("failed", error))


def _methods(case: Case) -> dict[str, Method]:
    if case.work == "cost":
        return gram_methods(case)
    return {**(triplet_methods() if case.quantity == "triplets" else gram_methods(case)), **peer_methods(case)}
