"""The published claims of docs/evidence.md: one module per experiment."""
