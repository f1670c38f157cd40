"""The main job, run once for all tests that read what it wrote."""

import pytest
from training_job import train


@pytest.fixture(scope="session")
def main_job(tmp_path_factory):
    """The main job with its defaults."""
    return train(tmp_path_factory.mktemp("main") / "run")


@pytest.fixture
def train_into(tmp_path):
    """Run the main job with overrides, into a folder of this test."""
    return lambda *overrides, **options: train(tmp_path / "run", *overrides, **options)
