"""One module a library: what its user would write, timed in a process of its own."""
