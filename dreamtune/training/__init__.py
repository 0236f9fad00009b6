"""Settings, objectives, the loop and its checkpoints."""
