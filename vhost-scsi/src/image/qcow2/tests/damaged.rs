//! Images that somebody damaged on purpose.

use super::*;

/// Whatever the image makes of it; only the process must live.
fn use_it(folder: &Folder) {
    let Ok(image) = open(&folder.options("a.qcow2")) else { return };
    if image.acquire().is_err() {
        return;
    }
    let mut buffer = vec![0; 200 << 10];
    for offset in (0..image.len().min(8 * MIB)).step_by(512 << 10) {
        let _ = image.read_at(&mut buffer, offset);
        let _ = image.extent(offset);
        let _ = image.write_at(&buffer[..70 << 10], offset + 512);
        let _ = image.write_zeroes(offset + 1024, 100 << 10, false);
        let _ = image.discard(offset, 150 << 10);
        let _ = image.write_at(&buffer[..4096], offset + 8192);
    }
    let _ = image.flush();
    let _ = image.release();
}

#[test]
fn damaged_images_do_not_end_the_process() {
    let mut random = Random::new();
    let folder = Folder::new();
    folder.create("base.qcow2", "cluster_size=4k", "2M");
    let options = "cluster_size=4k,backing_file=base.qcow2,backing_fmt=qcow2";
    folder.create("a.qcow2", options, "8M");
    folder.qemu_io("a.qcow2", &["write -P 1 0 1M", "write -c -P 2 2M 4k", "write -z 3M 1M"]);
    folder.qemu_img(&["snapshot", "-c", "s", "a.qcow2"]);
    folder.qemu_io("a.qcow2", &["write -P 3 512k 1M"]);
    let image = fs::read(folder.path("a.qcow2")).unwrap();
    for case in 0..setting("QCOW2_CASES", 100) {
        let mut damaged = image.clone();
        for _ in 0..random.below(4) + 1 {
            // The header, any metadata, or a whole table entry.
            let at = match random.below(3) {
                0 => random.below(200),
                1 => random.below(16 * 4096),
                _ => random.below(damaged.len() as u64 - 8) & !7,
            } as usize;
            let high = random.below(256) as u8;
            match random.below(5) {
                0 => damaged[at] = high,
                1 => damaged[at] ^= 1 << random.below(8),
                2 => damaged[at..at + 8].fill(high),
                3 => {
                    let offset = (random.below(600) * 4096) | (random.below(4) << 62);
                    damaged[at..at + 8].copy_from_slice(&offset.to_be_bytes());
                }
                _ => {
                    let (from, count) = (random.below(300) as usize * 4096, 4096);
                    let part = damaged.get(from..from + count).unwrap_or_default().to_vec();
                    let to = (at & !4095).min(damaged.len() - count);
                    damaged[to..to + part.len()].copy_from_slice(&part);
                }
            }
        }
        if random.below(16) == 0 {
            damaged.truncate(random.below(damaged.len() as u64) as usize);
        }
        fs::write(folder.path("a.qcow2"), &damaged).unwrap();
        let outcome = std::panic::catch_unwind(|| use_it(&folder));
        if outcome.is_err() {
            let kept = std::env::temp_dir().join(format!("damaged-{case}.qcow2"));
            fs::copy(folder.path("a.qcow2"), &kept).unwrap();
            panic!("case {case}: see {}", kept.display());
        }
    }
}

#[test]
fn a_feature_without_a_name_is_refused() {
    let folder = Folder::new();
    folder.create("a.qcow2", "cluster_size=64k", "1M");
    let bytes = fs::read(folder.path("a.qcow2")).unwrap();
    let found = bytes.windows(4).position(|window| window == [0x68, 0x03, 0xf8, 0x57]).unwrap();
    folder.patch("a.qcow2", found as u64 + 4, &49_u32.to_be_bytes());
    assert_eq!(folder.refused("a.qcow2"), "its header is damaged: the names of features");
}
