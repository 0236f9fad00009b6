"""Sessions of the page: each its own, and cheap."""

import asyncio

import gradio as gr
import pytest
from gradio.blocks import Block, Blocks, BlocksConfig
from gradio.state_holder import SessionState

from dreamtune.ui.app import build
from dreamtune.ui.context import App


async def page(app: App) -> Blocks:
    return build(app)


def test_a_session_is_its_own_and_describes_nothing_anew(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = asyncio.run(page(app))  # outside of a loop Gradio begins one and leaves it open
    asked: list[int] = []
    plain = BlocksConfig.config_for_block

    def counted(_id: int, rendered_ids: list[int], block: Block, renderable: None = None) -> dict:
        asked.append(_id)
        return plain(_id, rendered_ids, block, renderable)

    monkeypatch.setattr(BlocksConfig, "config_for_block", staticmethod(counted))
    one, two = SessionState(blocks), SessionState(blocks)
    assert asked == []
    for id, block in blocks.blocks.items():
        assert one.config_values[id] == plain(id, [], block)
    button = next(id for id, block in blocks.blocks.items() if getattr(block, "elem_id", "") == "train-start")
    one._update_value_in_config(button, "Other")
    one[button] = gr.Button("Another", interactive=False)  # what an event does that returns an update
    one._update_config(button)
    assert asked == [button] and one.config_values[button]["props"]["interactive"] is False
    for session in (two, SessionState(blocks)):
        assert session.config_values[button]["props"]["value"] == "Start training"
        assert session.blocks_config.blocks[button] is blocks.blocks[button]
