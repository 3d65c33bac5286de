//! Cases that have a name.
