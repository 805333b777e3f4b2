"""Looks at this machine before a start: addresses, ports, programs, folders."""
