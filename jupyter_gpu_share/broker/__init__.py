"""The broker: one program that owns the shares of all users. Nothing is imported here."""
