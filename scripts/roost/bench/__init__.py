"""The parts of scripts/bench: peers, measures, what watches them, the summary."""
