"""Exporting adapters to other tools, trimming and inspecting them: `run.export` is the flow."""
