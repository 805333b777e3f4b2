"""How many workers, by which jobs. See docs/wrapper.md."""
