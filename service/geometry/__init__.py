"""The geometry of paths: measured, drawn and told; and studies of it."""
