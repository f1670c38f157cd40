import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.testing import assert_close

from lightning_bounds.models import TwoLayerNetwork

INITIALIZATIONS = ["information_space", "overparameterization", "fine_grained"]
ACTIVATIONS = {
    "relu": lambda z: max(z, 0.0),
    "softplus": lambda z: math.log(1 + math.exp(z)),
    "tanh": math.tanh,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "erf": math.erf,
    "sin": math.sin,
    "quadratic": lambda z: z * z / 2,
    "identity": lambda z: z,
}
# sup |phi'|, the B of the papers' norm bounds.
DERIVATIVE_BOUNDS = {
    "relu": 1.0,
    "softplus": 1.0,
    "tanh": 1.0,
    "sigmoid": 0.25,
    "erf": 2 / math.sqrt(math.pi),
    "sin": 1,
}


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_outputs_equal_the_definition_in_loops(activation):
    network = TwoLayerNetwork(3, width=5, out_features=2, activation=activation, seed=0).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    W, V = network.hidden.weight.tolist(), network.output.weight.tolist()
    phi = ACTIVATIONS[activation]
    by_hand = [
        [sum(V[c][s] * phi(sum(W[s][j] * xi[j] for j in range(3))) for s in range(5)) for c in range(2)]
        for xi in x.tolist()
    ]
    assert_close(network(x).detach(), torch.tensor(by_hand, dtype=torch.float64))


def test_any_function_can_be_the_activation():
    network = TwoLayerNetwork(3, width=5, activation=torch.cos, seed=0)
    x = torch.ones(2, 3)
    assert_close(network(x), torch.cos(x @ network.hidden.weight.T) @ network.output.weight.T)


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_positively_homogeneous_activations_scale_with_the_input(activation):
    network = TwoLayerNetwork(6, width=9, out_features=2, activation=activation, seed=0)
    x = torch.randn(4, 6)
    assert_close(network(3 * x), 3 * network(x))


def test_images_are_flattened():
    network = TwoLayerNetwork(12, width=5, out_features=2, seed=0)
    images = torch.randn(4, 3, 2, 2)
    assert_close(network(images), network(images.reshape(4, 12)), rtol=0, atol=0)


@pytest.mark.parametrize("output_scale", [1.0, 0.3])
@pytest.mark.parametrize("K", [1, 3])
def test_information_space_output_entries_are_nu_over_root_width_times_outputs(K, output_scale):
    network = TwoLayerNetwork(2, width=1000, out_features=K, output_scale=output_scale, seed=0)
    V = network.output.weight.detach().double()
    assert_close(V.abs(), torch.full_like(V, output_scale / math.sqrt(1000 * K)), rtol=1e-6, atol=0)
    # A sum of m fair signs has standard deviation sqrt(m).
    assert abs(float(V.sign().sum())) <= 5 * math.sqrt(1000 * K)


@pytest.mark.parametrize("width", [2, 10, 11, 101])
def test_overparameterization_output_has_as_many_plus_as_minus_and_one_zero_if_odd(width):
    V = TwoLayerNetwork(2, width, initialization="overparameterization", output_scale=0.7).output.weight.detach()
    assert int((V > 0).sum()) == int((V < 0).sum()) == width // 2
    assert int((V == 0).sum()) == width % 2
    assert_close(V[V != 0].abs(), torch.full_like(V[V != 0], 0.7 / math.sqrt(width)))


def test_overparameterization_output_is_the_norm_of_the_labels_over_root_of_width_times_samples():
    y = torch.randn(20, dtype=torch.float64)
    output_scale = float(y.norm()) / math.sqrt(20)
    V = TwoLayerNetwork(2, 8, initialization="overparameterization", output_scale=output_scale).output.weight.detach()
    assert_close(float(V.abs().max()), float(y.norm()) / math.sqrt(8 * 20), rtol=1e-6, atol=0)


@pytest.mark.parametrize("K", [1, 3])
def test_fine_grained_output_entries_are_signs_over_root_width(K):
    network = TwoLayerNetwork(2, width=1000, out_features=K, initialization="fine_grained", seed=0)
    V = network.output.weight.detach().double()
    assert_close(V.abs(), torch.full_like(V, 1 / math.sqrt(1000)), rtol=1e-6, atol=0)
    assert abs(float(V.sign().sum())) <= 5 * math.sqrt(1000 * K)


@pytest.mark.parametrize(
    ("initialization", "input_scale", "expected"),
    [
        ("information_space", None, 1.0),
        ("overparameterization", None, 1.0),
        ("fine_grained", None, 0.01),
        ("information_space", 0.5, 0.5),
        ("overparameterization", 0.5, 0.5),
        ("fine_grained", 0.5, 0.5),
    ],
)
def test_input_weights_are_gaussian_with_the_papers_standard_deviation(initialization, input_scale, expected):
    network = TwoLayerNetwork(100, width=400, initialization=initialization, input_scale=input_scale, seed=0)
    g = network.hidden.weight.detach().double().flatten() / expected
    # Standard errors of mean, variance and fourth moment of N standard normals: 1, sqrt(2), sqrt(96) over sqrt(N).
    N = g.numel()
    assert abs(float(g.mean())) <= 5 / math.sqrt(N)
    assert abs(float(g.square().mean()) - 1) <= 5 * math.sqrt(2 / N)
    assert abs(float(g.pow(4).mean()) - 3) <= 5 * math.sqrt(96 / N)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("activation", list(DERIVATIVE_BOUNDS))
@pytest.mark.parametrize("seed", range(3))
def test_jacobian_norm_is_at_most_the_papers_bound(activation, K, seed):
    # [000], Lemma 6.10 with its missing factor: |J(W)| <= B sqrt(K k) |V|_inf |X| = nu B |X|.
    network = TwoLayerNetwork(5, 20, K, activation=activation, output_scale=0.8, seed=seed).double()
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    V = network.output.weight

    def outputs(W):
        return torch.func.functional_call(network, {"hidden.weight": W}, x)

    jacobian = torch.func.jacrev(outputs)(network.hidden.weight.detach()).reshape(8 * K, 100)
    norm = float(torch.linalg.matrix_norm(jacobian, 2))
    bound = DERIVATIVE_BOUNDS[activation] * math.sqrt(K * 20) * float(V.abs().max() * torch.linalg.matrix_norm(x, 2))
    assert norm <= bound
    assert_close(bound, 0.8 * DERIVATIVE_BOUNDS[activation] * float(torch.linalg.matrix_norm(x, 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("train_output", [False, True])
def test_output_layer_is_frozen_unless_asked_for(train_output):
    network = TwoLayerNetwork(3, width=4, train_output=train_output)
    assert network.hidden.weight.requires_grad
    assert network.output.weight.requires_grad is train_output
    assert [name for name, _ in network.named_parameters()] == ["hidden.weight", "output.weight"]


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_a_seed_gives_the_same_network_again_and_leaves_the_global_random_state_alone(initialization):
    state = torch.get_rng_state()
    first, second, other = (TwoLayerNetwork(7, width=6, initialization=initialization, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.hidden.weight, second.hidden.weight)
    assert torch.equal(first.output.weight, second.output.weight)
    assert not torch.equal(first.hidden.weight, other.hidden.weight)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_without_a_seed_the_global_random_state_decides(initialization):
    def weights():
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return [TwoLayerNetwork(7, width=6, initialization=initialization).hidden.weight for _ in range(2)]

    (first, next_one), (again, _) = weights(), weights()
    assert torch.equal(first, again)
    assert not torch.equal(first, next_one)


def test_a_seed_means_the_same_network_in_every_precision():
    weights = {}
    previous = torch.get_default_dtype()
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        weights[dtype] = TwoLayerNetwork(30, width=40, seed=0).hidden.weight.detach()
    torch.set_default_dtype(previous)
    assert weights[torch.float64].dtype == torch.float64
    assert torch.equal(weights[torch.float64].float(), weights[torch.float32])


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_networks_can_be_pickled_and_copied(activation):
    network = TwoLayerNetwork(3, width=4, activation=activation, seed=0)
    x = torch.ones(2, 3)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "`in_features` to be an integer of at least 1, but got 0"),
        ({"in_features": 3.0}, "`in_features` to be an integer of at least 1, but got 3.0"),
        ({"width": -1}, "`width` to be an integer of at least 1, but got -1"),
        ({"width": True}, "`width` to be an integer of at least 1, but got True"),
        ({"out_features": 0}, "`out_features` to be an integer of at least 1, but got 0"),
        ({"seed": -1}, "`seed` to be an integer of at least 0, but got -1"),
        ({"seed": "0"}, "`seed` to be an integer of at least 0, but got '0'"),
        ({"input_scale": 0.0}, "`input_scale` to be a positive finite number, but got 0.0"),
        ({"input_scale": math.nan}, "`input_scale` to be a positive finite number, but got nan"),
        ({"output_scale": -1}, "`output_scale` to be a positive finite number, but got -1"),
        ({"output_scale": math.inf}, "`output_scale` to be a positive finite number, but got inf"),
        ({"output_scale": "1"}, "`output_scale` to be a positive finite number, but got '1'"),
        ({"activation": "softpuls"}, "one of 'relu', 'softplus', .* but got 'softpuls'; did you mean 'softplus'"),
        ({"initialization": "finegrained"}, "'overparameterization', .* did you mean 'fine_grained'"),
        ({"initialization": "overparameterization", "out_features": 2}, "one output .* `out_features=2`"),
        ({"initialization": "overparameterization", "width": 1}, "two hidden units .* `width=1`"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwoLayerNetwork(**{"in_features": 3, "width": 4, **arguments})


def test_config_builds_the_network_once_the_data_gives_its_sizes():
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "model" / "two_layer.yaml")
    assert OmegaConf.missing_keys(config) == {"in_features", "out_features"}
    network = instantiate(config, in_features=64, out_features=10)
    assert isinstance(network, TwoLayerNetwork)
    assert network(torch.ones(2, 1, 8, 8)).shape == (2, 10)
