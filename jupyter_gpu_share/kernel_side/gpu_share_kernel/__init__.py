"""The kernel's own side of its share: soft caps, and simulated memory."""
