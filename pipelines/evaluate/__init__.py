"""How well an adapter does on held-out prompts: `run.evaluate` is the flow."""
