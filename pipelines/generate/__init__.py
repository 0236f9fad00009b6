"""From prompts and adapters to pictures: `run.generate` is the flow."""
