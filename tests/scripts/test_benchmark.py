"""`python scripts/benchmark.py`: its methods agree, its watch stops what takes too much, its report is true."""

import json
import math
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lightning_bounds import JacobianOperator
from lightning_bounds.models import TwoLayerNetwork

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
sys.path.append(str(SCRIPTS))

from benchmarking import report  # noqa: E402
from benchmarking.cases import cases, differentiable_attention, inputs_of, network_of  # noqa: E402
from benchmarking.children import method_names  # noqa: E402
from benchmarking.judge import gram_errors, triplet_errors  # noqa: E402
from benchmarking.methods import gram_methods, triplet_methods  # noqa: E402
from benchmarking.peers import peer_methods  # noqa: E402
from benchmarking.rounds import Watch, Worker  # noqa: E402
from benchmarking.truth import closed_form, load_case, prepare_case  # noqa: E402
from benchmarking.worker import UnavailableError, serve  # noqa: E402

SMALL = {case.name: case for work in ("W1", "W2", "W4") for case in cases(work, "small")}
METHODS = [
    (name, method)
    for name, case in SMALL.items()
    for method in {**gram_methods(case), **peer_methods(case)}
    # nngeometry says itself that it does not know embeddings.
    if not (case.network == "transformer" and method.startswith("nngeometry"))
]
WATCH = Watch(seconds=60, patience=1, repeats=1, memory_bytes=2**34)


@pytest.fixture
def single():
    """Networks of the benchmark are float32."""
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_every_method_gives_the_gram_matrix_of_the_rows_of_the_jacobian(name, method, single):
    case = SMALL[name]
    network, inputs = network_of(case), inputs_of(case)
    J = JacobianOperator(network, inputs, layers=case.layers).dense()
    with differentiable_attention():
        try:
            run = {**gram_methods(case), **peer_methods(case)}[method](case, network, inputs, network)
        except UnavailableError as error:
            pytest.skip(str(error))
        gram = run()
    assert_close(gram.float(), J @ J.T, rtol=0, atol=1e-5 * float(J.square().sum(dim=1).max()))


@pytest.mark.parametrize("layers", [None, ("hidden",)])
@pytest.mark.parametrize("K", [1, 3])
def test_closed_form_of_the_two_layer_network_equals_its_rows(K, layers):
    network, x = TwoLayerNetwork(5, 7, K, train_output=True, seed=0), torch.randn(4, 5)
    J = JacobianOperator(network, x, layers=layers).dense()
    assert_close(closed_form(network, x, layers), J @ J.T)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The small case of W3 on disk, which takes some training."""
    folder, before = tmp_path_factory.mktemp("trained"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    prepare_case(cases("W3", "small")[0], folder)
    torch.set_default_dtype(before)
    return folder


@pytest.mark.parametrize("method", triplet_methods())
def test_every_triplet_method_gives_the_leading_triplets(method, trained, single):
    (case,) = cases("W3", "small")
    (network, inputs), (previous, _) = load_case(case, trained), load_case(case, trained, "previous")
    try:
        sigma, U = triplet_methods()[method](case, network, inputs, previous)()
    except UnavailableError as error:
        pytest.skip(str(error))
    J = JacobianOperator(network, inputs).dense()
    assert_close(sigma.float(), torch.linalg.svdvals(J)[: case.rank], rtol=2e-3, atol=0)
    assert_close((J.T @ U.float()).norm(dim=0), sigma.float(), rtol=2e-3, atol=0)
    assert max(triplet_errors(sigma, U, trained).values()) < 2e-3


def test_the_truth_of_a_large_case_is_confirmed_by_products_that_are_not_ours(single, tmp_path, monkeypatch):
    (case,) = cases("W4", "small")
    prepare_case(case, tmp_path)
    explicit = np.load(tmp_path / "gram.npy")
    monkeypatch.setattr("benchmarking.truth._EXPLICIT_BYTES", 0)
    prepare_case(case, tmp_path)
    assert "differs from J (J^T u) of torch.func by" in json.loads((tmp_path / "truth.json").read_text())["how"]
    assert np.abs(np.load(tmp_path / "gram.npy") - explicit).max() < 1e-10 * explicit.max()


def test_a_wrong_truth_is_refused(single, tmp_path, monkeypatch):
    (case,) = cases("W4", "small")
    monkeypatch.setattr("benchmarking.truth._EXPLICIT_BYTES", 0)
    right = JacobianOperator.gram
    monkeypatch.setattr(JacobianOperator, "gram", lambda *args, **options: (1 + 1e-8) * right(*args, **options))
    with pytest.raises(ArithmeticError, match="float64 truth to agree with"):
        prepare_case(case, tmp_path)


def test_errors_of_a_scaled_gram_matrix_are_those_of_its_scale(tmp_path):
    J = torch.randn(6, 9)
    truth = (J @ J.T).numpy()
    np.save(tmp_path / "gram.npy", truth)
    np.save(tmp_path / "singular_values.npy", torch.linalg.svdvals(J).numpy())
    errors = gram_errors(1.21 * truth, tmp_path, np.linalg.eigvalsh)
    assert errors["gram_error"] == pytest.approx(0.21)
    assert errors["singular_value_error"] == errors["top_error"] == pytest.approx(0.1)


def test_errors_of_triplets_see_wrong_values_and_wrong_vectors(tmp_path):
    J = torch.randn(6, 9)
    U, sigma, _ = torch.linalg.svd(J, full_matrices=False)
    np.save(tmp_path / "gram.npy", (J @ J.T).numpy())
    np.save(tmp_path / "singular_values.npy", sigma.numpy())
    exact = triplet_errors(sigma[:2], U[:, :2], tmp_path)
    assert max(exact.values()) < 1e-12
    assert triplet_errors(1.01 * sigma[:2], U[:, :2], tmp_path)["singular_value_error"] == pytest.approx(0.01)
    turned = triplet_errors(sigma[:2], U[:, [0, 2]], tmp_path)["residual"]
    assert turned == pytest.approx(float((sigma[1] ** 2 - sigma[2] ** 2) / sigma[0] ** 2))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnavailableError("not here"), ("skipped", {"reason": "not here"})),
        (ValueError("wrong\nmore"), ("failed", {"reason": "ValueError: wrong"})),
        (MemoryError(), ("failed", {"reason": "out of memory (MemoryError: )"})),
        (
            RuntimeError("can't allocate memory"),
            ("failed", {"reason": "out of memory (RuntimeError: can't allocate memory)"}),
        ),
    ],
)
def test_a_method_that_cannot_run_says_why(error, expected):
    ours, theirs = Pipe()

    def prepare():
        raise error

    serve(theirs, prepare, dict)
    assert ours.recv() == expected


def worker(code):
    """A child that runs `code` as its method."""
    ours, theirs = Pipe()
    script = f"""
import sys, time
sys.path.append({str(SCRIPTS / "benchmarking")!r})
from multiprocessing.connection import Connection
from worker import serve
def run():
    {code}
serve(Connection(int(sys.argv[1])), lambda: run, lambda result: {{"judged": result}})
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    return Worker(ours, process)


def test_peak_memory_is_that_of_the_run_alone():
    child = worker("block = bytearray(300 * 2**20); return len(block)")
    child.ask(None, WATCH)
    answer = child.ask("judge", WATCH)
    child.stop()
    child.end()
    assert answer["judged"] == 300 * 2**20
    assert answer["peak_bytes"] == pytest.approx(300 * 2**20, rel=0.05)


def test_a_run_is_stopped_at_its_time_limit():
    child = worker("time.sleep(60)")
    child.ask(None, WATCH)
    begin = time.perf_counter()
    child.ask("judge", Watch(seconds=0.3, patience=1, repeats=1, memory_bytes=2**34))
    assert child.row == {"status": "timed out", "reason": "more than 0.3 s"}
    assert time.perf_counter() - begin < 5
    assert child.process.poll() is not None


def test_a_run_is_stopped_at_its_memory_limit():
    child = worker("block = bytearray(500 * 2**20); time.sleep(60)")
    child.ask(None, WATCH)
    child.ask("judge", Watch(seconds=60, patience=1, repeats=1, memory_bytes=200 * 2**20))
    assert child.row["status"] == "failed"
    assert child.row["reason"].startswith("out of memory: stopped at")
    assert child.process.poll() is not None


def test_a_process_that_dies_is_a_row():
    child = worker("import os; os._exit(3)")
    child.ask(None, WATCH)
    child.ask("judge", WATCH)
    assert child.row["status"] == "failed"
    assert "died" in child.row["reason"]


def row(method, seconds, peak=1.0, error=1e-6, **more):
    values = {"seconds": seconds, "runs": 5, "peak_bytes": peak * 2**30, "gram_error": error}
    return {"method": method, "status": "ok", **values, "eigenvalue_seconds": 1.0, **more}


def entry(name, rows, **more):
    return {"name": name, "work": name.split()[0], "network": "resnet", "quantity": "gram", "rows": rows, **more}


def found(case):
    return {claim["claim"]: (claim["value"], claim["holds"]) for claim in report.claims([case])}


def test_ratios_are_against_the_fastest_peer_with_a_right_result():
    rows = [
        row(report.OURS32, 2.0, peak=1.0), row(report.OURS64, 5.0), row("wrong", 0.1, error=1e-2),
        row("peer", 4.0, peak=2.0), row("slow peer", 9.0, peak=0.1),
        {"method": "late", "status": "timed out", "reason": "more than 60 s"},
    ]  # fmt: skip
    ratios = found(entry("W1 all K=3 n=512", rows))
    assert ratios["W1 n=512: best peer / ours float32, time"] == (2.0, True)
    assert ratios["W1 n=512: ours float64 / best peer, time"] == (1.25, True)
    assert ratios["W1 n=512: ours float32 / best peer, memory"] == (0.5, True)
    assert ratios["W1 n=512: best peer / ours float32, time with eigenvalues"] == (pytest.approx(5 / 3), None)


@pytest.mark.parametrize(("ours", "holds"), [(3.0, True), (5.0, False)])
def test_a_ratio_that_falls_short_is_said_to_fail(ours, holds):
    ratios = found(entry("W1 all K=3 n=2048", [row(report.OURS32, ours), row("peer", 6.0)]))
    assert ratios["W1 n=2048: best peer / ours float32, time"] == (6 / ours, holds)


def test_nothing_is_claimed_of_what_was_not_measured():
    assert found(entry("W1 all K=3 n=512", [row(report.OURS32, 2.0)])) == {}


def test_a_warm_start_whose_result_is_wrong_makes_no_ratio():
    peer = row("torch.func jacobian + svd_lowrank, 12 iterations", 10.0)
    ratios = found(entry("W3 all K=3 n=1024", [peer, row(report.COLD, 4.0), row(report.WARM, 1.0, error=0.1)]))
    assert ratios == {"W3 n=1024: torch.func + svd_lowrank / ours cold": (2.5, True)}


@pytest.mark.parametrize(("power", "holds"), [(2.0, True), (3.0, False)])
def test_the_power_that_time_grows_with_is_found(power, holds):
    sweep = [
        {**entry(f"cost n={n}", [row(report.OURS32, 1e-3 * n**power)]), "num_samples": n, "p": 10} for n in (8, 16, 32)
    ]
    (claim,) = report.claims(sweep)
    assert claim["value"] == pytest.approx(power)
    assert claim["holds"] is holds


def test_the_table_has_the_reason_where_there_is_no_number():
    rows = [{"method": "late", "status": "timed out", "reason": "more than 60 s"}, row(report.OURS32, 2.0)]
    limit = {"forward_seconds": 0.1, "forward_backward_seconds": 0.2, "product_seconds": 0.5, "limit_seconds": 1.0}
    lines = report.table(entry("W1", rows, limit=limit, truth="known")).splitlines()
    assert "50% of the machine's limit" in lines[2]
    assert lines[3].endswith("timed out: more than 60 s")
    assert lines[4].strip() == "truth: known"


@pytest.mark.slow
def test_the_small_run_measures_everything_with_right_results(tmp_path):
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--sizes", "small", "--repeats", "1"]
    command += ["--output", str(tmp_path / "benchmark.json"), "--plot", str(tmp_path / "cost.png")]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert {case["work"] for case in result["cases"]} == {"W1", "W2", "W3", "W4", "W5", "cost"}
    small = [case for work in ("W1", "W2", "W3", "W4", "W5", "cost") for case in cases(work, "small")]
    measured = {case["name"]: [row["method"] for row in case["rows"]] for case in result["cases"]}
    assert measured == {case.name: method_names(case) for case in small}
    rows = [row for case in result["cases"] for row in case["rows"]]
    unfit = [row for row in rows if row["status"] != "ok"]
    assert all(row["status"] == "skipped" or "Embedding" in row["reason"] for row in unfit), unfit
    assert {row["method"] for row in rows if row["status"] == "ok"} >= {report.OURS32, report.OURS64, report.COLD}
    errors = [row.get("gram_error", row.get("singular_value_error", 0.0)) for row in rows if row["status"] == "ok"]
    assert max(errors) < 1e-3
    assert all(row["seconds"] > 0 and row["peak_bytes"] >= 0 for row in rows if row["status"] == "ok")
    assert all(case["limit"]["limit_seconds"] > 0 for case in result["cases"] if "limit" in case)
    assert math.isfinite(result["limits"]["gemm_float32"])
    assert {claim["holds"] for claim in result["claims"] if "equal weights" in claim["claim"]} == {True}
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert process.stdout.count("measured in") == len(small)
