"""Routes, schemas and pages."""
