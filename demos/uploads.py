"""What every page does with uploads."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

__all__ = ["refuse_addresses"]


def refuse_addresses(component: Any, what: str) -> None:
    """Let `component` take files only, not addresses that a client wants this server to fetch.

    Args:
        what: of the message, e.g. "photo".
    """
    vars(component)["async_move_resource_to_block_cache"] = partial(_refuse, component, what)


async def _refuse(component: Any, what: str, place: Any) -> str | None:
    if str(place).startswith(("http:", "https:")):
        raise gr.Error(f"upload the {what} itself; addresses are not fetched", print_exception=False)
    return await type(component).async_move_resource_to_block_cache(component, place)
