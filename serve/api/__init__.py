"""The engine over HTTP: what may be asked by whom, what is answered, and how it is documented."""

from serve.api.answers import as_json
from serve.api.app import WEB, create_app

__all__ = ["WEB", "as_json", "create_app"]
