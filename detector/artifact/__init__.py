"""Write, read and verify artifacts."""
