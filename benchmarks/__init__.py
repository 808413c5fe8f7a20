"""Measurements that are not tests: each prints a ratio of two things done in the same run on the same machine."""
