"""Agreements of all processes with the scheduler. See docs/architecture.md."""
