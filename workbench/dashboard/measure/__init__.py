"""The page Measure: speed, memory and throughput over size."""
