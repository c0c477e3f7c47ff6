//! What every device process shares.
