//! The guest's side.

/// A device that is connected to an [`Endpoint`](super::Endpoint). All calls come from the reactor's
/// thread or from [`attach`](super::Endpoint::attach), and none while the endpoint is locked: the endpoint may be used from inside of them.
pub trait Client: Send + Sync {
    /// How many bytes of input can be taken now. Who says 0 calls
    /// [`resume`](super::Endpoint::resume) once that is over.
    fn room(&self) -> usize;

    /// Takes input, never more than there was [room](Self::room) for.
    fn input(&self, data: &[u8]);

    /// There is room for output, after a write was taken in part.
    fn writable(&self) {}

    /// Somebody is there from now on, or nobody: what is written is lost then. At first nobody is.
    fn connected(&self, _there: bool) {}

    /// The user sends a break condition.
    fn line_break(&self) {}

    /// The size of the user's terminal.
    fn resized(&self, _columns: u16, _rows: u16) {}
}
