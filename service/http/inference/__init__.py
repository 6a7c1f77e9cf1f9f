"""Models in memory: their threads, queues, health and versions."""
