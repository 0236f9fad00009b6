"""Adapters for other tools, smaller adapters, and what is in a file: `run.export` is the flow."""
