"""dreamtune: teach Stable Diffusion a subject with a small adapter.

Importing this package loads nothing heavy; the parts are imported by their own names (`dreamtune.adapters`,
`dreamtune.pipelines.train`, ...).
"""

__version__ = "0.1.0"
