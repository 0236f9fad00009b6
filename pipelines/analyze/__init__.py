"""What adapters change and how they get along: `run.analyze` is the flow."""
