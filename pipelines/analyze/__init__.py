"""What adapters change and how much they interfere: `run.analyze` is the flow."""
