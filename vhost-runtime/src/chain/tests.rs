use super::*;
use crate::memory::tests::region;
use proptest::prelude::*;
use vm_memory::ByteValued;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn memory() -> Arc<Memory> {
    let table = [region(0, 0x10000, 0), region(0x10000, 0x10000, 0x20000)];
    Arc::new(Memory::new(table, Arc::default()).unwrap())
}

fn parse(memory: &Arc<Memory>, size: u16, head: u16, indirect: bool) -> Result<Chain, ChainError> {
    let mut chain = Chain::empty(memory);
    chain.parse(0, size, head, indirect).map(|()| chain)
}

fn put(memory: &Memory, table: u64, index: u64, addr: u64, len: u32, flags: u16, next: u16) {
    let descriptor = Descriptor::new(addr, len, flags, next);
    memory.space().write_slice(descriptor.as_slice(), GuestAddress(table + index * 16)).unwrap();
}

#[test]
fn readable_then_writable() {
    let memory = memory();
    put(&memory, 0, 3, 0x1000, 4, NEXT, 1);
    put(&memory, 0, 1, 0x1100, 4, NEXT | WRITE, 0);
    put(&memory, 0, 0, 0x1200, 8, WRITE, 0);
    memory.space().write_slice(b"abcd", GuestAddress(0x1000)).unwrap();
    let chain = parse(&memory, 4, 3, true).unwrap();
    assert_eq!(chain.readable().to_vec(), b"abcd");
    assert_eq!(chain.writable().len(), 12);
    let (status, data) = chain.writable().split_at(6);
    assert_eq!(status.write(b"012345XX"), 6);
    assert_eq!(data.write(b"6789ab"), 6);
    assert_eq!(chain.writable().to_vec(), b"0123456789ab");
}

#[test]
fn a_buffer_may_cross_from_one_region_into_the_next() {
    let memory = memory();
    put(&memory, 0, 0, 0xfffe, 4, WRITE, 0);
    let chain = parse(&memory, 1, 0, true).unwrap();
    assert_eq!(chain.writable().iovecs().count(), 2);
    assert_eq!(chain.writable().write(b"wxyz"), 4);
    assert_eq!(chain.writable().to_vec(), b"wxyz");
}

#[test]
fn malformed_chains_are_told_apart() {
    let memory = memory();
    let parse = |size, head| parse(&memory, size, head, true).unwrap_err();
    put(&memory, 0, 0, 0x1000, 4, NEXT, 0);
    assert_eq!(parse(4, 0), ChainError::TooLong);
    assert_eq!(parse(4, 4), ChainError::Index { index: 4, size: 4 });
    put(&memory, 0, 0, 0x1f000, 0x2000, 0, 0);
    assert_eq!(parse(4, 0), ChainError::Unmapped { address: 0x20000, length: 0x1000 });
    put(&memory, 0, 0, u64::MAX - 1, 4, 0, 0);
    assert!(matches!(parse(4, 0), ChainError::Unmapped { .. }));
    put(&memory, 0, 0, 0x1000, 4, NEXT | WRITE, 1);
    put(&memory, 0, 1, 0x1000, 4, 0, 0);
    assert_eq!(parse(4, 0), ChainError::Order);
    put(&memory, 0, 0, 0x2000, 17, INDIRECT, 0);
    assert_eq!(parse(4, 0), ChainError::Indirect);
    put(&memory, 0, 0, 0x2000, 16, INDIRECT | NEXT, 0);
    assert_eq!(parse(4, 0), ChainError::Indirect);
    put(&memory, 0, 0, 0x2000, 16, INDIRECT, 0);
    put(&memory, 0x2000, 0, 0x2000, 16, INDIRECT, 0);
    assert_eq!(parse(4, 0), ChainError::Indirect);
    put(&memory, 0x2000, 0, 0x1000, 16, NEXT, 1);
    assert_eq!(parse(4, 0), ChainError::Index { index: 1, size: 1 });
}

#[test]
fn an_indirect_table_is_refused_where_it_was_not_negotiated() {
    let memory = memory();
    put(&memory, 0, 0, 0x2000, 16, INDIRECT, 0);
    assert_eq!(parse(&memory, 4, 0, false).unwrap_err(), ChainError::Indirect);
}

#[test]
fn four_gibibytes_are_too_much() {
    let memory = memory();
    for i in 0..3 {
        put(&memory, 0, i, 0, 0xffff_ffff, NEXT, i as u16 + 1);
    }
    assert!(parse(&memory, 4, 0, false).is_err());
}

proptest! {
    #[test]
    fn any_table_gives_a_chain_within_memory_or_an_error(
        descriptors in proptest::collection::vec(
            (0u64..0x24000, 0u32..0x3000, 0u16..8, 0u16..10), 8),
        head in 0u16..10,
    ) {
        let memory = memory();
        for (i, &(addr, len, flags, next)) in descriptors.iter().enumerate() {
            put(&memory, 0, i as u64, addr, len, flags, next);
        }
        if let Ok(chain) = parse(&memory, 8, head, true) {
            for buffers in [chain.readable(), chain.writable()] {
                let total: usize = buffers.iovecs().map(|v| v.iov_len).sum();
                prop_assert_eq!(total as u64, buffers.len());
                prop_assert_eq!(buffers.to_vec().len() as u64, buffers.len());
                let (a, b) = buffers.split_at(buffers.len() / 3);
                prop_assert_eq!([a.to_vec(), b.to_vec()].concat(), buffers.to_vec());
            }
        }
    }
}
