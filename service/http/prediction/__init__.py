"""The routes that accept images: a small ASGI application in front of FastAPI."""
