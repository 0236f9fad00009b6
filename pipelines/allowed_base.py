"""Which base the app uses when none was chosen: an imported file never decides that on its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from dreamtune.errors import ConfigError, DreamtuneError
from dreamtune.pipelines import library
from dreamtune.pipelines.workspace import Workspace
from dreamtune.text import shown

AUTO = "auto"
"""Left to the pipelines, which read it from the adapters: by then they are known to record only allowed bases."""


def allowed_base(workspace: Workspace, names: Sequence[str]) -> str:
    """The base for adapters of the library: a path from the app's list of bases, or :data:`AUTO`.

    Raises ConfigError for an unknown name, and for an adapter whose base is neither pocket, nor in the list, nor that
    of the run it belongs to, which the owner has started.
    """
    listed = workspace.all_bases()
    bases = set()
    for name in names:
        found = library.entry(workspace, name)
        told = found.base
        if not told or told == "pocket" or _is_of_run(found, workspace):
            bases.add(AUTO)
        elif told in listed:
            bases.add(listed[told])
        else:
            raise ConfigError(
                f"{found.label} records {shown(told)} as its base, which is not one of the app's bases: "
                "choose one from the list, or start dreamtune ui with --bases"
            )
    return bases.pop() if len(bases) == 1 else AUTO


def _is_of_run(found: library.Entry, workspace: Workspace) -> bool:
    from dreamtune.pipelines.adapter_ref import base_in_run
    from dreamtune.pipelines.run_folder import RunFolder

    if found.path.parent.parent != workspace.runs:
        return False
    with suppress(DreamtuneError):  # a damaged run: as if there were none
        return RunFolder(found.path.parent).read_config().base == found.base or (
            base_in_run(found.path, found.base) is not None
        )
    return False
