"""From a folder of pictures to an adapter: `run.train` is the flow, read it first."""
