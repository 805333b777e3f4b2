"""Reads and checks parameters and configuration. See docs/wrapper.md."""
