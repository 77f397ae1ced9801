"""Numbers only, no I/O: MaxSim kernels, quantisation, fusion of signals, explanation."""
