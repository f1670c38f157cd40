import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_the_report_needs_no_optional_package_and_takes_the_lightning_in_use(package):
    # Lightning itself may import the optional packages, so it goes first, and after that they are gone.
    script = (
        f"import sys, {package}\n"
        "for name in ('matplotlib', 'rich', 'wandb', 'tensorboard', 'torch.utils.tensorboard'):\n"
        "    sys.modules[name] = None\n"
        "from lightning_bounds.report import JSONLLogger, MemoryLogger\n"
        f"assert isinstance(JSONLLogger('.'), {package}.loggers.logger.Logger)\n"
        f"assert isinstance(MemoryLogger(), {package}.loggers.logger.Logger)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
