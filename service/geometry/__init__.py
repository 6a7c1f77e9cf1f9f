"""The geometry of paths: `networks` measures given networks; `circles` and `decodings` are experiments of their own."""
