//! A guest's guest whose QEMU libvirt starts, with the interface that libvirt calls `vhostuser`.

use crate::{Error, Host, Nested};

/// Starts libvirt if it does not run, and the guest; ends with the guest.
///
/// There is no service manager here, and none of the user whom libvirt looks for even if QEMU is root. The daemon needs half a minute to ask QEMU what it can,
/// each time that the lab's machine is new. QEMU connects to the socket again when what serves it has ended.
const SCRIPT: &str = r#"
install -d /etc/libvirt /var/log/libvirt /var/lib/libvirt /var/cache/libvirt
cd /etc/libvirt || exit 1
id libvirt-qemu >/dev/null 2>&1 || useradd --system --user-group libvirt-qemu || exit 1
printf 'auth_unix_rw = "none"\n' >libvirtd.conf
cat >qemu.conf <<'END'
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
END
[ -S /run/libvirt/libvirt-sock ] || libvirtd --daemon || exit 1
qemu-img create -q -f qcow2 -F raw -b /dev/vdb /tmp/libvirt.qcow2 || exit 1
cat >/tmp/libvirt.xml <<END
<domain type='kvm'>
  <name>lab</name>
  <memory unit='MiB'>512</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>VCPUS</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/job/vmlinuz-linux-6.12</kernel>
    <initrd>/job/initrd-linux-6.12</initrd>
    <cmdline>console=ttyS0 panic=-1 quiet</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough' check='none'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/tmp/libvirt.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='vhostuser'>
      <mac address='52:54:00:12:34:56'/>
      <source type='unix' path='SOCKET' mode='client'>
        <reconnect enabled='yes' timeout='1'/>
      </source>
      <model type='virtio'/>
      <driver queues='QUEUES'/>
    </interface>
    <serial type='file'><source path='/run/$name.console'/></serial>
    <channel type='pipe'><source path='$port'/><target type='virtio' name='lab'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
END
virsh --quiet create /tmp/libvirt.xml || { tail -n 20 /var/log/libvirt/qemu/lab.log; exit 1; }
cp /run/libvirt/qemu/lab.pid /run/$name.pid
exec tail --pid=$(</run/$name.pid) --follow /dev/null
"#;

/// Boots a guest of the host's, with as many CPUs as pairs of queues, at a vhost-user socket that another process
/// listens on in the host. One at a time; virsh calls it `lab`.
///
/// # Errors
/// It does not boot; what libvirt said is on the terminal.
pub fn boot_libvirt_guest<'a>(
    host: &'a Host,
    socket: &str,
    queues: u16,
) -> Result<Nested<'a>, Error> {
    let count = queues.to_string();
    let script = SCRIPT.replace("SOCKET", socket).replace("QUEUES", &count);
    host.boot_by(&script.replace("VCPUS", &count))
}
