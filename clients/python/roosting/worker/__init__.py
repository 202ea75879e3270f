"""The worker's side of routing and of the link protocol (SPEC.md, parts 2 and 3)."""
