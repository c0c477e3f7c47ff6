use super::*;

/// What firmware does with the script (SeaBIOS, src/fw/romfile_loader.c), for files that it has put at
/// these addresses. Returns their contents.
fn firmware(linked: &Linked, places: [(&str, u64); 2]) -> [Vec<u8>; 2] {
    let files = linked.files();
    let [.., (name, script)] = &files;
    assert_eq!((*name, script.len() % 128), ("etc/table-loader", 0));
    let mut loaded: [Option<Vec<u8>>; 2] = [None, None];
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
    let which = |name: &[u8]| {
        let name = std::str::from_utf8(name).unwrap().trim_end_matches('\0');
        places.iter().position(|(known, _)| *known == name).unwrap()
    };
    for entry in script.chunks(128) {
        let (command, argument) = entry.split_at(4);
        let file = which(&argument[..56]);
        match number(command) {
            1 => {
                let (align, zone) = (number(&argument[56..60]), argument[60]);
                assert_eq!((align, zone), if file == 0 { (16, 2) } else { (64, 1) });
                assert!(places[file].1.is_multiple_of(align as u64));
                let (_, content) = files.iter().find(|(name, _)| *name == places[file].0).unwrap();
                loaded[file] = Some(content.clone());
            }
            2 => {
                let (address, to) =
                    (places[which(&argument[56..112])].1, number(&argument[112..116]));
                let size = usize::from(argument[116]);
                let place = &mut loaded[file].as_mut().unwrap()[to..to + size];
                let mut wide = [0; 8];
                wide[..size].copy_from_slice(place);
                let sum = u64::from_le_bytes(wide) + address;
                place.copy_from_slice(&sum.to_le_bytes()[..size]);
            }
            3 => {
                let at = number(&argument[56..60]);
                let (start, length) = (number(&argument[60..64]), number(&argument[64..68]));
                let content = loaded[file].as_mut().unwrap();
                content[at] = content[at].wrapping_sub(sum(&content[start..start + length]));
            }
            other => panic!("command {other}"),
        }
    }
    loaded.map(Option::unwrap)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// One table that points to another by 4 and by 8 bytes.
fn linked() -> Linked {
    let mut linked = Linked::new();
    linked.add_raw(&[7; 3]).unwrap();
    let first = linked.add(&[1; 40], &[]).unwrap();
    let mut second = [2; 60];
    second[36..40].copy_from_slice(&first.to_le_bytes());
    second[40..48].copy_from_slice(&u64::from(first).to_le_bytes());
    let second = linked.add(&second, &[(36, 4), (40, 8)]).unwrap();
    assert_eq!((first, second), (64, 128));
    let mut rsdp = [3; 36];
    rsdp[24..32].copy_from_slice(&u64::from(second).to_le_bytes());
    linked.set_rsdp(&rsdp).unwrap();
    linked
}

#[test]
fn pointers_become_addresses_and_sums_zero() {
    let placed = linked().placed(0xe_0000).unwrap();
    let (rsdp, tables) = placed.split_at(64);
    assert_eq!(rsdp[24..32], 0xe_00c0u64.to_le_bytes());
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp[..36])), (0, 0));
    let (first, second) = (&tables[64..104], &tables[128..]);
    assert_eq!((sum(first), sum(second), second.len()), (0, 0, 60));
    assert_eq!(second[36..40], 0xe_0080u32.to_le_bytes());
    assert_eq!(second[40..48], 0xe_0080u64.to_le_bytes());
}

#[test]
fn firmware_does_the_same_by_its_script() {
    let linked = linked();
    let [rsdp, tables] = firmware(&linked, [(RSDP, 0xf_5a10), (TABLES, 0x1ffe_0040)]);
    // As we place them, if the tables lie there.
    let placed = linked.placed(0x1ffe_0000).unwrap();
    assert_eq!(tables, placed[64..]);
    assert_eq!(rsdp, placed[..36]);
}

#[test]
fn a_pointer_of_four_bytes_has_no_room_for_an_address_of_five() {
    assert!(linked().placed(0xffff_ffc0).is_none());
    assert!(linked().placed(!63).is_none());
}
