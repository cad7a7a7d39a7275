"""What speed costs and gains, as ratios measured in one run: `python -m benchmarks`."""
