"""The Lightning package that the user already works with, as ``pl``.

``pytorch_lightning`` and ``lightning.pytorch`` are the same code under two names, whose modules and data modules do
not cross over: a ``pytorch_lightning.LightningModule`` is refused by a ``lightning.pytorch.Trainer``. So this package
takes the one that was imported first, and ``pytorch_lightning``, which is a dependency, if there was none.
"""

import sys
from typing import TYPE_CHECKING

if not TYPE_CHECKING and "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules:
    import lightning.pytorch as pl
else:
    import pytorch_lightning as pl

__all__ = ["pl"]
