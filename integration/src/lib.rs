//! Nodes made of real programs, and the suites that run on them.
