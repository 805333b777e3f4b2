"""Controls the number of workers and of jobs. See docs/wrapper.md."""
