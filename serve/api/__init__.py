"""The engine over HTTP: what may be asked by whom, what is answered, and how it is documented.

The application is imported when it is first asked for: `serve.api.answers` is the client's too, which brings no server.
"""

from typing import TYPE_CHECKING, Any

from serve.api.answers import as_json

if TYPE_CHECKING:
    from serve.api.app import WEB, create_app

__all__ = ["WEB", "as_json", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in ("WEB", "create_app"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve.api import app

    return getattr(app, name)
