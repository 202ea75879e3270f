"""The client's side of the edge protocol (SPEC.md, part 1)."""
