"""Long jobs in shards: lost processes, throughput, overhead, and a calculation for a million images."""
