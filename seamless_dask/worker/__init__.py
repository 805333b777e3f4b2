"""A Dask worker: runs the tasks, answers nested calls. See docs/architecture.md."""
