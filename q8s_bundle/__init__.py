"""What a Q8S node runs: binaries, container images and guest disks, built once per architecture and kept in a cache."""
