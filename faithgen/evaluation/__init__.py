"""Data sets, metrics, scorers, runner and report."""
