"""What we use of other packages that is not public. See docs/architecture.md."""
