"""A real OpenStack on one machine: to try Q8S on, to test it, and to use one big server without a cloud."""
