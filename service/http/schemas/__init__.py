"""The forms of requests and responses, for validation in tests and for the OpenAPI description."""
