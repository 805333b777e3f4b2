"""What a job may change in its process, part by part. See docs/isolation.md."""
