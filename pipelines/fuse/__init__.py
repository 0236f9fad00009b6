"""From several adapters to one: `run.fuse` is the flow."""
