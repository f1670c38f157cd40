"""The bounds as a callback: names and settings, what is logged, what is refused, state, and an unchanged training."""

import functools
import inspect
import math
import re

import pytest
import torch
from bound_training import COUNT, FEATURES, NUMBERS, SETTINGS, callback, data, network, supervised, train
from small_training import fit, measured_steps, series, statuses
from torch import nn
from training_trace import Trace, differences

from lightning_bounds import Probe, Schedule
from lightning_bounds.callbacks.generalization_bound import GeneralizationBound
from lightning_bounds.callbacks.generalization_bound.settings import BOUNDS
from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised
from lightning_bounds.report import JSONLLogger, MemoryLogger, read_jsonl

EACH = pytest.mark.parametrize("name", SETTINGS)
ONE = {"fine_grained": {"delta": 0.1}}


def made(name, **options):
    """One bound and a network that it is about."""
    activation, outputs = ("relu", 1) if name.startswith("fine_grained") else ("tanh", 2)
    initialization = "fine_grained" if outputs == 1 else "information_space"
    return callback({name: SETTINGS[name]}, **options), supervised(network(outputs, activation, initialization))


def violated(bound):
    return {item.name for item in bound.conditions if item.holds is False}


@functools.cache
def logged(name):
    logger, (bounds, module) = MemoryLogger(), made(name)
    trainer = train([bounds], module, logger=logger)
    return bounds, logger, dict(trainer.callback_metrics)


def test_every_available_bound_is_tried_here():
    assert set(SETTINGS) == set(BOUNDS)


@EACH
def test_value_terms_and_verdicts_are_all_that_is_logged(name):
    bounds, logger, metrics = logged(name)
    key = f"{name}/generalization_bound"
    rest = {*bounds.latest[name].terms, "valid", "vacuous"}
    ours = {"bounds/opt_step", "epoch", "bounds/status/generalization_bound", "step"}
    cost = {f"bounds/cost/generalization_bound/{quantity}" for quantity in ("seconds", "share")}
    rows = [row for row in logger.records if "bounds/status/generalization_bound" in row]
    assert [row["bounds/opt_step"] for row in rows] == [0, 1, 2, 3]
    assert {frozenset(row) for row in rows} == {frozenset({key, *(f"{key}/{term}" for term in rest)} | ours | cost)}
    assert {name for name in metrics if name.startswith(key)} == {key, *(f"{key}/{term}" for term in rest)}


@EACH
def test_a_bound_is_the_sum_of_its_terms_at_every_measurement(name):
    key = f"{name}/generalization_bound"
    terms = [f"{key}/{term}" for term in logged(name)[0].latest[name].terms]
    assert len(terms) >= 2
    sums = {row["step"]: sum(row[term] for term in terms) for row in logged(name)[0].history}
    assert series(logged(name)[0], key) == pytest.approx(sums)


@EACH
def test_the_docstring_lists_the_bound_with_its_settings(name):
    text = " ".join(inspect.getdoc(GeneralizationBound).split())
    entry = re.search(rf"\* ``{name}``: (.*?)(?: \* ``| The settings are)", text)[1]
    needed, more = re.search(r"((?:``\w+``[, ]*)+)\[((?:``\w+``[, ]*)+)\]", entry).groups()
    keywords = [p for p in inspect.signature(BOUNDS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert re.findall(r"\w+", needed) == [p.name for p in keywords if p.default is p.empty]
    assert re.findall(r"\w+", more) == [p.name for p in keywords if p.default is not p.empty]


@EACH
def test_conditions_are_a_table_at_the_end(name):
    bounds, logger, _ = logged(name)
    ((step, columns, rows),) = logger.tables[f"{name}/generalization_bound/conditions"]
    assert step == 2
    assert columns == ["condition", "actual", "relation", "required", "status", "largest_factor"]
    assert [row[:5] for row in rows] == [
        [item.name, item.actual, item.relation, item.required, item.status] for item in bounds.latest[name].conditions
    ]


def test_the_figure_shows_the_bound_beside_the_test_error():
    bounds, logger, _ = logged("fine_grained")
    ((_, figure),) = logger.figures["generalization_bound"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["fine_grained"].get_xdata()) == [0, 1, 2, 3]
    measured = [row["test/error"] for row in logger.records if "test/error" in row]
    assert list(lines["test/error"].get_ydata()) == measured
    assert [step for step, _ in bounds.errors] == [1, 2, 3]
    assert figure.axes[0].get_yscale() == "log"


def test_without_such_an_error_the_figure_shows_the_bound_alone():
    bounds = callback(error="test/misspelled")
    train([bounds])
    assert bounds.errors == []
    assert list(bounds.figures()) == ["generalization_bound"]


def test_bounds_of_data_are_computed_once():
    parts = []

    class Parts(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            parts.append(bounds.latest["fine_grained"].parts)

    bounds = callback()
    train([bounds, Parts()])
    assert len(parts) == 3
    assert all(part is parts[0] for part in parts)


def test_steps_done_are_compared_with_those_that_are_asked_for():
    bounds = callback({"fine_grained": {"delta": 0.1, "hidden_factors": {"steps": 1e-9}}})
    train([bounds])
    steps = {item.name: item for item in bounds.latest["fine_grained"].conditions}["steps"]
    assert (steps.actual, steps.status, steps.ratio) == (3.0, "holds", pytest.approx(3.0 / steps.required))
    assert series(bounds, "fine_grained/generalization_bound/valid") == {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0}


# Equal inputs with different labels: the theorem gives nothing.
def contradiction():
    inputs, targets = data()
    inputs[1] = inputs[0]
    return inputs, targets


def test_an_infinite_bound_is_logged_as_what_it_is(tmp_path):
    memory, file = MemoryLogger(), JSONLLogger(tmp_path)
    bounds = callback()
    trainer = train([bounds], samples=contradiction(), logger=[memory, file])
    key = "fine_grained/generalization_bound"
    assert set(statuses(bounds)) == {0.0}
    assert series(bounds, key) == dict.fromkeys(range(4), math.inf)
    assert series(bounds, f"{key}/vacuous") == dict.fromkeys(range(4), 1.0)
    assert series(bounds, f"{key}/valid") == dict.fromkeys(range(4), 0.0)
    assert float(trainer.callback_metrics[key]) == math.inf
    assert [row[key] for row in memory.records if key in row] == [math.inf] * 4
    assert [row[key] for row in read_jsonl(next(tmp_path.rglob("*.jsonl"))) if key in row] == [math.inf] * 4
    assert list(memory.figures) == ["generalization_bound"]


def test_weights_that_are_no_numbers_are_no_bound_and_stop_no_training():
    class Explodes(Supervised):
        def on_train_batch_end(self, *_):
            if self.global_step == 2:
                with torch.no_grad():
                    self.network.hidden.weight[0, 0] = math.nan

    name = "fine_grained_certificate"
    bounds = callback({name: SETTINGS[name]})
    module = Explodes(network(), reduction="sum", optimizer=functools.partial(torch.optim.SGD, lr=0.01))
    with pytest.warns(UserWarning, match="logged no numbers at step 2"):
        trainer = train([bounds], module)
    assert statuses(bounds) == [0.0, 0.0, 1.0, 1.0]
    assert trainer.global_step == 3


@pytest.mark.parametrize(
    ("change", "conditions"),
    [
        (lambda: ({"samples": data(norm=2.0)}, supervised()), {"norm_deviation"}),
        (lambda: ({"batch_size": 4}, supervised()), {"steps per epoch"}),
        (lambda: ({}, supervised(momentum=0.9)), {"optimizer"}),
        (lambda: ({}, supervised(network(train_output=True))), {"network"}),
        (lambda: ({}, supervised(network(activation="tanh"))), {"network"}),
        (lambda: ({}, supervised(nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU(), nn.Linear(9, 1)))), {"network"}),
        (lambda: ({}, supervised(loss="logistic")), {"loss_gradient_deviation"}),
        (lambda: ({}, supervised()), set()),
    ],
    ids=["norms", "batches", "momentum", "output_layer", "tanh", "biases", "loss", "nothing"],
)
def test_what_the_theorem_is_not_about_is_a_violated_condition_and_no_error(change, conditions):
    options, module = change()
    bounds = callback()
    train([bounds], module, **options)
    assert violated(bounds.latest["fine_grained"]) == conditions
    assert set(series(bounds, "fine_grained/generalization_bound/valid").values()) == {float(not conditions)}


def test_a_probe_of_a_part_of_the_samples_is_told():
    bounds = callback(probe=Probe(num_samples=COUNT - 1))
    train([bounds])
    assert violated(bounds.latest["fine_grained"]) == {"samples of the probe"}


def test_adam_is_no_gradient_descent():
    bounds = callback()
    train([bounds], Supervised(network(), optimizer=functools.partial(torch.optim.Adam, lr=0.01)))
    assert violated(bounds.latest["fine_grained"]) == {"optimizer"}


def test_a_module_that_does_something_besides_is_not_the_two_layer_network():
    class Doubled(Supervised):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    bounds = callback()
    train([bounds], Doubled(network(), reduction="sum", optimizer=functools.partial(torch.optim.SGD, lr=0.01)))
    assert violated(bounds.latest["fine_grained"]) == {"network"}


def test_images_and_single_precision_are_seen_as_flat_inputs():
    inputs, targets = data()
    bounds, module = callback(), supervised(network()).float()
    train([bounds], module, (inputs.float().reshape(COUNT, 1, 2, 2), targets), val=False)
    exact = callback()
    train([exact], samples=(inputs, targets), val=False)
    key = "fine_grained/generalization_bound"
    assert violated(bounds.latest["fine_grained"]) == set()
    assert series(bounds, key) == pytest.approx(series(exact, key), rel=1e-4)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "Expected `bounds` as a mapping"),
        (["fine_grained"], "Expected `bounds` as a mapping"),
        (
            {"fine_graned": {"delta": 0.1}},
            r"among \['fine_grained', .*'information_space_loss'\].*did you mean 'fine_gr",
        ),
        ({"fine_grained": None}, r"settings \['delta'\] of the bound 'fine_grained'"),
        ({"fine_grained": 0.1}, "as a mapping, but got 0.1"),
        ({"fine_grained": {"dleta": 0.1}}, "got 'dleta'; did you mean 'delta'"),
        ({"information_space_loss": {"delta": 0.1}}, r"settings \['distance', 'row_distance'\]"),
    ],
)
def test_bounds_and_settings_that_are_not_known_are_refused_at_once(bounds, message):
    with pytest.raises(ValueError, match=message):
        GeneralizationBound(bounds)


def no_two_layers():
    return supervised(nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 2)))


@pytest.mark.parametrize(
    ("bounds", "module", "message"),
    [
        (ONE, lambda: supervised(network(2, initialization="information_space")), "Expected one output"),
        ({"fine_grained": {"delta": 2.0}}, supervised, "delta"),
        ({"information_space_full_rank": {"delta": 0.1}}, no_two_layers, "setting `activation`"),
        ({"information_space_full_rank": {"delta": 0.1, "activation": "swish"}}, no_two_layers, "activation among"),
        ({"information_space_loss": SETTINGS["information_space_loss"]}, no_two_layers, "two linear layers"),
        (
            {"information_space_classification": SETTINGS["information_space_classification"]},
            lambda: supervised(network(activation="quadratic")),
            "bounded slope",
        ),
    ],
    ids=["outputs", "delta", "activation", "unknown_activation", "layers", "slope"],
)
def test_what_cannot_be_computed_is_refused_before_the_first_step(bounds, module, message):
    steps = []

    class Steps(pl.Callback):
        def on_train_batch_start(self, *_):
            steps.append(1)

    # Also where the schedule would not look before the first step.
    late = callback(bounds, schedule=Schedule(at_init=False))
    with pytest.raises(ValueError, match=message):
        train([Steps(), late], module())
    assert steps == []


def test_an_assumed_activation_makes_bounds_of_data_available_for_any_network():
    name = "information_space_random_initialization"
    bounds = callback({name: {**NUMBERS, "activation": "tanh"}})
    train([bounds], no_two_layers())
    assert violated(bounds.latest[name]) >= {"network"}
    assert math.isfinite(bounds.latest[name].value)


def test_a_name_stands_in_the_place_of_the_topic():
    few = callback(probe=Probe(num_samples=5), name="few")
    both = [callback(), few]
    train(both)
    assert series(few, "fine_grained/few") != series(both[0], "fine_grained/generalization_bound")
    assert list(few.tables()) == ["fine_grained/few/conditions"]


EVERYTHING = {name: value for name, value in SETTINGS.items() if name.startswith("information_space")}


def without_bounds(value):
    if isinstance(value, dict):
        return {k: without_bounds(v) for k, v in value.items() if "generalization_bound" not in str(k)}
    return [without_bounds(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", ["one_output", "many_outputs", "dropout"])
def test_training_is_bit_for_bit_the_same_with_the_bounds(kind):
    def run(extra):
        torch.manual_seed(5)
        trace = Trace()
        if kind == "dropout":
            net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 1))
            module, bounds = supervised(net, momentum=0.9), callback(schedule=Schedule(every_n_steps=1))
        elif kind == "one_output":
            names = ("fine_grained", "fine_grained_certificate")
            module, bounds = supervised(), callback({name: SETTINGS[name] for name in names})
        else:
            module, bounds = supervised(network(2, "tanh", "information_space")), callback(EVERYTHING)
        trainer = train([*([bounds] if extra else []), trace], module, batch_size=5, logger=MemoryLogger())
        return (bounds if extra else None), without_bounds(trace.everything(trainer))

    (bounds, with_bounds), (_, alone) = run(True), run(False)
    assert set(statuses(bounds)) == {0.0}
    assert len(measured_steps(bounds)) >= 4
    assert differences(with_bounds, alone) == []


def timeless(bounds):
    return [{key: value for key, value in row.items() if "bounds/cost/" not in key} for row in bounds.history]


@EACH
@pytest.mark.filterwarnings("ignore:.*(resuming from a checkpoint|callbacks used to create).*")
def test_a_resumed_training_logs_what_an_uninterrupted_one_does(tmp_path, name):
    keeper = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_on_train_epoch_end=True)
    (whole, module), (resumed, again) = made(name), made(name)
    train([whole, keeper], module, enable_checkpointing=True)
    train([resumed], again, ckpt_path=tmp_path / "step=2.ckpt")
    assert measured_steps(whole) == [0, 1, 2, 3]
    assert differences(timeless(whole), timeless(resumed)) == []
    assert resumed.errors == whole.errors
    assert resumed.latest[name].conditions == whole.latest[name].conditions


def test_a_network_of_another_size_does_not_go_on_from_a_checkpoint(tmp_path):
    name = "information_space_loss"
    bounds, module = made(name)
    train([bounds], module).save_checkpoint(tmp_path / "end.ckpt")
    state = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"][bounds.state_key]
    smaller = callback({name: SETTINGS[name]})

    class Resumes(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            smaller.load_state_dict(
                {**state, "initial": {"hidden": torch.ones(3, FEATURES), "output": torch.ones(2, 3)}}
            )

    with pytest.raises(ValueError, match=r"network of the checkpoint's run, with weights of \[\(3, 4\), \(2, 3\)\]"):
        train([smaller, Resumes()], made(name)[1])


def test_garbage_in_the_state_starts_anew_with_a_warning():
    bounds = callback()
    with pytest.warns(UserWarning, match="starts anew"):
        bounds.load_state_dict({**callback().state_dict(), "initial": "garbage"})
    assert bounds.initial is None


def test_a_module_that_tells_neither_its_loss_nor_its_scale_leaves_their_conditions_open():
    bounds = callback({"information_space_full_rank": {"delta": 0.1, "activation": "tanh"}})
    fit([bounds])
    assert measured_steps(bounds) == [0, 3, 6]
    found = {item.name: item.status for item in bounds.latest["information_space_full_rank"].conditions}
    assert found["loss"] == "unknown"
