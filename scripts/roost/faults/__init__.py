"""The cases of scripts/faults."""
