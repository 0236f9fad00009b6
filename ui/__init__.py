"""The browser interface; it calls `dreamtune.pipelines` and nothing else. Imported as `dreamtune.ui`."""

if __name__ != "dreamtune.ui":
    raise ImportError("import this package as dreamtune.ui: another name would load its modules twice")
