//! Checkpoints that cannot be run are refused by name.
