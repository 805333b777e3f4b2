"""Parameters and configuration: what comes in, and what is allowed. See docs/wrapper.md."""
