"""Apache TVM: networks as Relax, scheduled, tuned, compiled and timed inside."""
