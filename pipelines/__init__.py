"""Flows from settings to files: train, generate, inspect. Imported as `dreamtune.pipelines`."""

if __name__ != "dreamtune.pipelines":
    raise ImportError("import this package as dreamtune.pipelines: another name makes a second copy of its modules")
