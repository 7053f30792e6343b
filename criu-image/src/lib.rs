//! Lossless reading, editing and writing of CRIU image files.
