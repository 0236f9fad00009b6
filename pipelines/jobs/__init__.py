"""The job queue (trainings, fusions, analyses and evaluations), and the worker that runs it."""
