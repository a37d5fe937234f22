"""The paper's experiments: what is compared, by which protocol, and the tables and plots of it."""
