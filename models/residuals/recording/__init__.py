"""Record the residues or embeddings of forward passes with hooks."""
