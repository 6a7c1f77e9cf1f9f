"""Fault-injection tests of a server process: failing networks, many clients, signals under load."""
