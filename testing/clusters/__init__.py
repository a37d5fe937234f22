"""Ray clusters of the tests: one that tests share, nodes that join, jobs run as scripts."""
