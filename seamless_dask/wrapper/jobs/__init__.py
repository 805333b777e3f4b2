"""Jobs of a batch system: scripts, submission, queue, cancellation. See docs/wrapper.md."""
