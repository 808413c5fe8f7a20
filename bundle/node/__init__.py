"""The Kubernetes node's part of a bundle: programs, container images, the unpacked containerd store, and the disk."""

from bundle.node.build import NodeArtifacts, ensure_control_plane, ensure_worker

__all__ = ["NodeArtifacts", "ensure_control_plane", "ensure_worker"]
