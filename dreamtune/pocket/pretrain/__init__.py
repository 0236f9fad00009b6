"""Making the pocket base: `python -m dreamtune.pocket.pretrain` renders the data and trains every part."""
