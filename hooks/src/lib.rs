//! The criu interposer.
