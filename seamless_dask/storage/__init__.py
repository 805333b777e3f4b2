"""Buffers, results and execution records. See docs/architecture.md."""
