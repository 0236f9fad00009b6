"""From prompts and adapters to images: `run.generate` is the flow."""
