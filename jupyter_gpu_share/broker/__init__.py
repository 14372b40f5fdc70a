"""The broker: one program that owns the shares of all users of a machine."""
