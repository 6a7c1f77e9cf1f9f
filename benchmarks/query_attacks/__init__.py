"""Query attacks: streams of queries, and the bars of their recognition."""
