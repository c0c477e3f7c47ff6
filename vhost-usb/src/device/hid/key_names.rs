//! Keys by the names that QEMU's monitor has for them (QKeyCode), as usages of the keyboard page (HID Usage
//! Tables 1.12, 10).
//!
//! Names of keys that this page has not are not known: `sleep`, `wake`, and those of media players and
//! browsers, which are usages of other pages, and no boot keyboard's.

/// The usage of the key that QEMU calls so.
#[must_use]
pub fn usage(name: &str) -> Option<u8> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, usage)| *usage)
}

/// In the order of usages. A key that does two things has two names.
#[rustfmt::skip]
const NAMES: [(&str, u8); 145] = [
    ("a", 0x04), ("b", 0x05), ("c", 0x06), ("d", 0x07), ("e", 0x08), ("f", 0x09), ("g", 0x0a),
    ("h", 0x0b), ("i", 0x0c), ("j", 0x0d), ("k", 0x0e), ("l", 0x0f), ("m", 0x10), ("n", 0x11),
    ("o", 0x12), ("p", 0x13), ("q", 0x14), ("r", 0x15), ("s", 0x16), ("t", 0x17), ("u", 0x18),
    ("v", 0x19), ("w", 0x1a), ("x", 0x1b), ("y", 0x1c), ("z", 0x1d), ("1", 0x1e), ("2", 0x1f),
    ("3", 0x20), ("4", 0x21), ("5", 0x22), ("6", 0x23), ("7", 0x24), ("8", 0x25), ("9", 0x26),
    ("0", 0x27), ("ret", 0x28), ("esc", 0x29), ("backspace", 0x2a), ("tab", 0x2b), ("spc", 0x2c),
    ("minus", 0x2d), ("equal", 0x2e), ("bracket_left", 0x2f), ("bracket_right", 0x30),
    ("backslash", 0x31), ("semicolon", 0x33), ("apostrophe", 0x34), ("grave_accent", 0x35),
    ("comma", 0x36), ("dot", 0x37), ("slash", 0x38), ("caps_lock", 0x39), ("f1", 0x3a),
    ("f2", 0x3b), ("f3", 0x3c), ("f4", 0x3d), ("f5", 0x3e), ("f6", 0x3f), ("f7", 0x40),
    ("f8", 0x41), ("f9", 0x42), ("f10", 0x43), ("f11", 0x44), ("f12", 0x45), ("print", 0x46),
    ("sysrq", 0x46), ("scroll_lock", 0x47), ("pause", 0x48), ("insert", 0x49), ("home", 0x4a),
    ("pgup", 0x4b), ("delete", 0x4c), ("end", 0x4d), ("pgdn", 0x4e), ("right", 0x4f),
    ("left", 0x50), ("down", 0x51), ("up", 0x52), ("num_lock", 0x53), ("kp_divide", 0x54),
    ("kp_multiply", 0x55), ("asterisk", 0x55), ("kp_subtract", 0x56), ("kp_add", 0x57),
    ("kp_enter", 0x58), ("kp_1", 0x59), ("kp_2", 0x5a), ("kp_3", 0x5b), ("kp_4", 0x5c),
    ("kp_5", 0x5d), ("kp_6", 0x5e), ("kp_7", 0x5f), ("kp_8", 0x60), ("kp_9", 0x61),
    ("kp_0", 0x62), ("kp_decimal", 0x63), ("less", 0x64), ("compose", 0x65), ("menu", 0x65),
    ("power", 0x66), ("kp_equals", 0x67), ("f13", 0x68), ("f14", 0x69), ("f15", 0x6a),
    ("f16", 0x6b), ("f17", 0x6c), ("f18", 0x6d), ("f19", 0x6e), ("f20", 0x6f), ("f21", 0x70),
    ("f22", 0x71), ("f23", 0x72), ("f24", 0x73), ("open", 0x74), ("help", 0x75), ("props", 0x76),
    ("front", 0x77), ("stop", 0x78), ("again", 0x79), ("undo", 0x7a), ("cut", 0x7b),
    ("copy", 0x7c), ("paste", 0x7d), ("find", 0x7e), ("audiomute", 0x7f), ("volumeup", 0x80),
    ("volumedown", 0x81), ("kp_comma", 0x85), ("ro", 0x87), ("katakanahiragana", 0x88),
    ("yen", 0x89), ("henkan", 0x8a), ("muhenkan", 0x8b), ("lang1", 0x90), ("lang2", 0x91),
    ("hiragana", 0x93), ("ctrl", 0xe0), ("shift", 0xe1), ("alt", 0xe2), ("meta_l", 0xe3),
    ("ctrl_r", 0xe4), ("shift_r", 0xe5), ("alt_r", 0xe6), ("meta_r", 0xe7),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_once_and_in_order() {
        let known = ["a", "0", "ret", "f12", "kp_1", "less", "shift", "meta_r"].map(usage);
        let usages = [0x04, 0x27, 0x28, 0x45, 0x59, 0x64, 0xe1, 0xe7].map(Some);
        assert_eq!(known, usages);
        assert_eq!((usage("unmapped"), usage("A")), (None, None));
        assert!(NAMES.is_sorted_by_key(|(_, usage)| *usage));
        let names: std::collections::BTreeSet<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), NAMES.len());
    }
}
