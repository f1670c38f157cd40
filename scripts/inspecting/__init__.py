"""What `scripts/inspect_data.py` is made of."""
