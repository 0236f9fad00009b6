"""From a folder of images to an adapter: `run.train` is the flow, read it first."""
