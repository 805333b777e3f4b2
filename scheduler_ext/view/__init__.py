"""The state of a scheduler, shown to people and programs. See docs/operations.md."""
