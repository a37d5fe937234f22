"""What tests and benchmarks share: a real S3 store, a fault proxy, small runs, a fault harness."""
