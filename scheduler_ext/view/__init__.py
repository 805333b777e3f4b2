"""What people and programs are told of a scheduler. See docs/operations.md."""
