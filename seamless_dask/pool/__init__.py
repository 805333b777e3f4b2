"""The Seamless processes of a Dask worker, seen from outside. See docs/architecture.md."""
