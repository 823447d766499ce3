"""Reports on networks and runs: metrics, latency, tables and plots."""
