"""The Kubernetes node's part of a bundle: programs, container images, the unpacked containerd store, and the disk."""
