"""Networks trained on small training sets."""
