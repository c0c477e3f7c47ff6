//! Random operations against a plain vector, then QEMU's opinion of the image.

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 4 * MIB - 512;

#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Read,
    Discard,
    Zero(bool),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u64, u64)>> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Write),
        2 => Just(Step::Read),
        2 => Just(Step::Discard),
        2 => any::<bool>().prop_map(Step::Zero),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    // In sectors; long stretches now and then.
    let length = prop_oneof![4 => 1_u64..40, 1 => 1_u64..2000];
    proptest::collection::vec((step, 0..SIZE / 512, length), 1..60)
}

fn run(folder: &Folder, mut model: Vec<u8>, steps: Vec<(Step, u64, u64)>) {
    let image = folder.open("a.qcow2");
    for (step, sector, sectors) in steps {
        let offset = sector * 512;
        let length = (sectors * 512).min(SIZE - offset);
        let range = offset as usize..(offset + length) as usize;
        match step {
            Step::Write(fill) => {
                let bytes: Vec<u8> = range.clone().map(|at| (at / 512) as u8 ^ fill).collect();
                image.write_at(&bytes, offset).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            Step::Read => assert!(read(&*image, offset, length as usize) == model[range]),
            Step::Discard => {
                image.discard(offset, length).unwrap();
                model[range].fill(0);
            }
            Step::Zero(unmap) => {
                image.write_zeroes(offset, length, unmap).unwrap();
                model[range].fill(0);
            }
            Step::Flush => image.flush().unwrap(),
            Step::Reopen => {
                image.release().unwrap();
                image.acquire().unwrap();
            }
        }
    }
    assert!(read(&*image, 0, SIZE as usize) == model);
    image.release().unwrap();
    folder.check("a.qcow2");
    fs::write(folder.path("model.img"), &model).unwrap();
    folder.qemu_img(&["compare", "-F", "raw", "a.qcow2", "model.img"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_a_vector(steps in steps(), options in prop_oneof![
        Just("cluster_size=64k"), Just("cluster_size=512"), Just("cluster_size=4k,refcount_bits=1"),
        Just("compat=0.10"), Just("data_file=data.bin"),
    ]) {
        let folder = Folder::new();
        folder.create("a.qcow2", options, &SIZE.to_string());
        run(&folder, vec![0; SIZE as usize], steps);
    }

    #[test]
    fn an_image_with_a_backing_file_and_a_snapshot_is_a_vector(steps in steps()) {
        let folder = Folder::new();
        let mut model: Vec<u8> = (0..SIZE).map(|at| (at / 512 % 251) as u8).collect();
        fs::write(folder.path("base.img"), &model[..3 << 20]).unwrap();
        model[3 << 20..].fill(0);
        let size = SIZE.to_string();
        folder.create("a.qcow2", "cluster_size=16k,backing_file=base.img,backing_fmt=raw", &size);
        folder.qemu_io("a.qcow2", &["write -P 9 1M 256k", "write -c -P 8 2M 32k"]);
        model[1 << 20..(1 << 20) + (256 << 10)].fill(9);
        model[2 << 20..(2 << 20) + (32 << 10)].fill(8);
        folder.qemu_img(&["snapshot", "-c", "s", "a.qcow2"]);
        run(&folder, model, steps);
    }
}
