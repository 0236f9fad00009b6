"""The command `dreamtune`: one file per command with its options and how its result is shown."""
