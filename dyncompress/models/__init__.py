"""Model adapters: one sub-package a framework, and what a user calls data."""
