"""What serving a file costs, beside other servers: `python -m benchmarks --help`, and README.md."""
