"""Which voxels a carbon plan is optimized on: a network that learns it, and its evaluation."""
