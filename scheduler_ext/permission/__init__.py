"""The permission machine: pure, without Dask. See docs/permission-manager.md."""
