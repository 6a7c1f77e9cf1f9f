"""Faults of a real server process: a network that fails, hangs or dies, storms of clients, signals under load."""
