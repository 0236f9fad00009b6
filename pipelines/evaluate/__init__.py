"""Evaluation of an adapter on held-out prompts: `run.evaluate` is the flow."""
