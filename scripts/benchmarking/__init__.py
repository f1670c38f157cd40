"""What scripts/benchmark.py measures: the cases, the methods, the processes that run them, the report."""
