"""The private names of other packages that we use. See docs/developing.md."""
