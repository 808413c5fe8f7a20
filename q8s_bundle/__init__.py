"""Build what Q8S's nodes run: bundles and guest images, once per architecture, kept in a cache."""
