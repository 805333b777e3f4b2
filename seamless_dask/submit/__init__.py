"""From a Transformation to a Dask task and back. See docs/architecture.md."""
