"""Every configuration composes and builds what it names."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf"
FILES = {
    group: [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
    for group in ("data", "model", "trainer", "callbacks", "logger", "experiment")
}
FOLDERS = {"data=mnist", "data=fashion_mnist", "data=cifar10"}
OPTIONS = [f"{group}={name}" for group, names in FILES.items() for name in names]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["paths.run=run", *overrides], return_hydra_config=False)
    OmegaConf.set_struct(config, False)
    return config


@pytest.mark.parametrize("option", OPTIONS)
def test_option_builds_everything_it_names(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ["data.source.folder=images"] if option in FOLDERS else []
    logger = [] if option.startswith("logger") else ["logger=none"]
    config = composed(option, *folder, *logger)
    for key, size in (("in_features", 4), ("out_features", 3)):
        if OmegaConf.is_missing(config.model, key):
            config.model[key] = size
    network = instantiate(config.model, _convert_="all")
    module = instantiate(config.training, network, _convert_="all")
    loggers = [instantiate(logger, _convert_="all") for logger in config.logger.values()]
    callbacks = [instantiate(callback, _convert_="all") for callback in config.callbacks.values()]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
    instantiate(config.data, _convert_="all")
    assert module.network is network
    assert set(callbacks) <= set(trainer.callbacks)
    assert trainer.loggers == loggers


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_configs_name_no_absolute_path(path):
    # A word like "/data:" names a group of the primary config.
    words = [word for word in path.read_text().split() if not word.endswith(":")]
    assert not [word for word in words if word.startswith("/") and len(word) > 1]


@pytest.mark.parametrize("group", FILES)
def test_groups_are_those_of_the_primary_config(group):
    assert group in {next(iter(entry)) for entry in OmegaConf.load(CONF / "train.yaml").defaults if entry != "_self_"}
