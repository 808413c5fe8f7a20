"""Experiments on a cluster: links, scenarios, the timeline of a deploy, and records for other labs."""
