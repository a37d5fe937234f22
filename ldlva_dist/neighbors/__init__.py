"""The neighbour graph, the bank of stored outputs, and the service that answers for both."""
