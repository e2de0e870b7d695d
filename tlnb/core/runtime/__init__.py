"""The machine: errors, paths, device, limits, typed JSON, locks, processes, energy."""
