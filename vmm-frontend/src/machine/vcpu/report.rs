//! What is told of a processor that can't go on.

use std::fmt;

use kvm_ioctls::VcpuFd;

/// Why a processor stopped for good, with its registers.
#[derive(Debug)]
pub struct Report {
    processor: u32,
    reason: String,
    registers: String,
}

impl Report {
    pub(super) fn new(processor: u32, reason: impl fmt::Display, vcpu: &VcpuFd) -> Self {
        Self { processor, reason: reason.to_string(), registers: registers(vcpu) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, reason, registers } = self;
        write!(f, "processor {processor} stopped: {reason}{registers}")
    }
}

/// A line for each few registers, in the manuals' names.
fn registers(vcpu: &VcpuFd) -> String {
    let mut text = String::new();
    if let Ok(r) = vcpu.get_regs() {
        let general = [
            ("rax", r.rax),
            ("rbx", r.rbx),
            ("rcx", r.rcx),
            ("rdx", r.rdx),
            ("rsi", r.rsi),
            ("rdi", r.rdi),
            ("rsp", r.rsp),
            ("rbp", r.rbp),
            ("r8 ", r.r8),
            ("r9 ", r.r9),
            ("r10", r.r10),
            ("r11", r.r11),
            ("r12", r.r12),
            ("r13", r.r13),
            ("r14", r.r14),
            ("r15", r.r15),
            ("rip", r.rip),
            ("rflags", r.rflags),
        ];
        lines(&mut text, &general);
    }
    if let Ok(s) = vcpu.get_sregs() {
        let control = [
            ("cr0", s.cr0),
            ("cr2", s.cr2),
            ("cr3", s.cr3),
            ("cr4", s.cr4),
            ("efer", s.efer),
            ("gdt", s.gdt.base),
            ("idt", s.idt.base),
            ("cs base", s.cs.base),
            ("cs", s.cs.selector.into()),
            ("ss", s.ss.selector.into()),
            ("ds", s.ds.selector.into()),
            ("tr", s.tr.selector.into()),
        ];
        lines(&mut text, &control);
    }
    text
}

fn lines(text: &mut String, registers: &[(&str, u64)]) {
    for line in registers.chunks(4) {
        text.push_str("\n ");
        for (name, value) in line {
            text.push_str(&format!(" {name}={value:016x}"));
        }
    }
}
