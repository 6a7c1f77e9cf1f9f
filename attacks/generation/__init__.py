"""Attack a data set in shards that can be resumed."""
