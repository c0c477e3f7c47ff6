//! What the sandbox of this program must let it do: what it uses of the host is open, or its broker opens it.

use vhost_runtime::sandbox::Sandbox;

use crate::host::tap;

/// Lets the program serve an interface, if it has one.
pub fn allow(sandbox: &mut Sandbox, has_tap: bool) {
    if has_tap {
        sandbox.calls(tap::calls());
    }
}
