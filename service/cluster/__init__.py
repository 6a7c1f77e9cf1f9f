"""Run the jobs on a cluster."""
