"""The Kubernetes node's part of a bundle: programs, container images, the unpacked containerd store, and the disk."""

from q8s_bundle.node.build import NodeArtifacts, ensure_control_plane, ensure_worker
from q8s_bundle.node.supply import CHOICES, Choice, Supply

__all__ = ["CHOICES", "Choice", "NodeArtifacts", "Supply", "ensure_control_plane", "ensure_worker"]
