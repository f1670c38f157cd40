"""Hydra configurations of lightning_bounds, found by other applications as ``pkg://lightning_bounds.conf``."""
