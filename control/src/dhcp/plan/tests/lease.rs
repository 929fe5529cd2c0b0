//! Server mode, as tables.
