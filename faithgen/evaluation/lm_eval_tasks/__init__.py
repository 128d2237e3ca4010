"""lm-eval tasks of faithgen: YAML files, and the functions that they name."""
