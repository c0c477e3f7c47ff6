use super::*;
use crate::image::open::tests::Scratch;

#[test]
fn what_is_written_is_read_in_every_cache_mode() {
    for cache in [CacheMode::Writeback, CacheMode::None, CacheMode::Unsafe] {
        let scratch = Scratch::new(1 << 20);
        let image = scratch.image(cache);
        let data: Vec<u8> = (0..8192u32).map(|i| i as u8).collect();
        image.write_at(&data[..4096], 4096).unwrap();
        let mut back = vec![0xff; 12288];
        image.read_at(&mut back, 0).unwrap();
        assert_eq!(back[4096..8192], data[..4096]);
        assert!(back[..4096].iter().chain(&back[8192..]).all(|&byte| byte == 0));
        image.flush().unwrap();
    }
}

#[test]
fn reading_past_the_end_is_an_error() {
    let scratch = Scratch::new(8192);
    let image = scratch.image(CacheMode::Writeback);
    let error = image.read_at(&mut [0; 4096], 6000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn discarded_space_reads_as_zeroes_and_is_a_hole() {
    let scratch = Scratch::new(1 << 20);
    let image = scratch.image(CacheMode::Writeback);
    image.write_at(&vec![7; 1 << 20], 0).unwrap();
    assert_eq!(image.extent(0).unwrap(), Extent { mapped: true, length: 1 << 20 });
    image.discard(4096, 8192).unwrap();
    image.write_zeroes(65536, 4096, false).unwrap();
    let mut back = [1; 8192];
    image.read_at(&mut back, 4096).unwrap();
    assert_eq!(back, [0; 8192]);
    assert_eq!(image.extent(4096).unwrap(), Extent { mapped: false, length: 8192 });
    assert_eq!(image.extent(0).unwrap(), Extent { mapped: true, length: 4096 });
    let mut back = [1; 4096];
    image.read_at(&mut back, 65536).unwrap();
    assert_eq!(back, [0; 4096]);
}

#[test]
fn the_size_follows_the_file() {
    let scratch = Scratch::new(4096);
    let image = scratch.image(CacheMode::Writeback);
    File::options().write(true).open(scratch.path()).unwrap().set_len(8192).unwrap();
    assert_eq!(image.len(), 4096);
    assert_eq!(image.refresh().unwrap(), 8192);
    assert_eq!(image.len(), 8192);
}

#[test]
fn a_second_writer_is_kept_away_while_it_runs() {
    let scratch = Scratch::new(4096);
    let (one, two) = (scratch.image(CacheMode::Writeback), scratch.image(CacheMode::Writeback));
    one.acquire().unwrap();
    assert_eq!(two.acquire().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    one.release().unwrap();
    two.acquire().unwrap();
}
