"""Learning the energy layers of arcs without labels: examples, losses, training, the agent."""
