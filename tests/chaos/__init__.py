"""A sweep under random faults, and the reckoning afterwards: `make chaos`."""
