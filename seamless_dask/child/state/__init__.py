"""The state that a job may change in its process, in parts. See docs/isolation.md."""
