"""The studies: one file each, run from a checkout: `python -m experiments.NAME`."""
