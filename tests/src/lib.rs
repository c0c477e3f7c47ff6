//! The lab: the machine that end-to-end tests boot.
