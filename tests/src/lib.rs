//! End-to-end tests: one file a feature in `tests/`.
