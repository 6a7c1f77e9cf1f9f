"""Recognition of query attacks from the sequence of a key's queries; docs/query-attacks.md describes the method."""
