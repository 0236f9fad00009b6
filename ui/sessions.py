"""Makes sessions cheap: Gradio would describe every component of the page anew for each, even for an API call."""

from __future__ import annotations

import copy
from typing import Any

from gradio.blocks import Block, Blocks, BlocksConfig

Known = dict[int, tuple[Block, dict[str, Any]]]
"""Id -> a component of the page, and how it describes itself."""


class _Described(BlocksConfig):
    """A configuration that knows the descriptions of the page's components."""

    def __init__(self, config: BlocksConfig, known: Known) -> None:
        super().__init__(config.root_block)
        vars(self).update(vars(copy.copy(config)))
        self.known = known
        self.config_for_block = self._describe

    def __copy__(self) -> BlocksConfig:
        """A session's own, in which it changes components."""
        return _Described(super().__copy__(), self.known)

    def _describe(self, _id: int, rendered_ids: list[int], block: Block, renderable: Any = None) -> dict[str, Any]:
        mine, description = self.known.get(_id, (None, {}))
        if renderable or block is not mine:  # what an event has changed is another component of that id
            return BlocksConfig.config_for_block(_id, rendered_ids, block, renderable)
        return {**description, "props": {**description["props"]}}  # a session writes values into it


def describe_once(blocks: Blocks) -> None:
    """Describe the components of a page that is complete now, for all sessions to come."""
    config = blocks.default_config
    known = {id: (block, config.config_for_block(id, [], block)) for id, block in config.blocks.items()}
    blocks.default_config = _Described(config, known)
