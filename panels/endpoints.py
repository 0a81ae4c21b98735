"""Endpoints for programs: typed arguments in, JSON out, a complaint as its sentence."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from core.errors import UserError


def endpoint(function: Callable[..., Any], name: str) -> None:
    """Offer `function` as /name, from inside the page; a client reads its UserError in words."""

    @wraps(function)
    def answer(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(answer, api_name=name)
