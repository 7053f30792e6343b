//! The Restow engine.
