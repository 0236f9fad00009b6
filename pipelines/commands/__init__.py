"""The commands of `dreamtune`, a file each: its options, and how its result is shown.

What a command does is elsewhere in `dreamtune.pipelines`, imported within the function: --help is quick.
"""
