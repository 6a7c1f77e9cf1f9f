"""FastAPI routers for everything but predictions: models, health, the web page and the API's description."""
