"""The PyTorch side: quantizers that train networks, layers, networks, data and checkpoints."""
