"""Ray clusters of the tests: warm workers, nodes that join, jobs run as scripts."""
