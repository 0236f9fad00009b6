"""One module per tab of the app; each has a `build` that places its components."""
