"""Query attacks: streams of queries, and measurements of their recognition."""
