"""The code that runs inside a Seamless process. See docs/architecture.md."""
