"""Components of a score: one file each (docs/components.md)."""
