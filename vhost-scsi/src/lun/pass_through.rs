//! A physical SCSI unit, passed through.

/// A physical SCSI unit.
#[derive(Debug)]
pub struct PassThrough;
