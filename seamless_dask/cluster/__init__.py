"""What all processes agree on with the scheduler. See docs/architecture.md."""
