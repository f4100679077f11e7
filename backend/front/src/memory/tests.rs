use super::*;
use crate::testing::{memory_file, some_fd, table};

const MIB: u64 = 1 << 20;

fn fault(regions: &[[u64; 4]], fds: Vec<OwnedFd>) -> String {
    Table::sort(table(regions, fds)).unwrap_err().to_string()
}

#[test]
fn regions_are_sorted_with_their_files() {
    let files = vec![memory_file(3 * MIB), memory_file(MIB)];
    let message = table(&[[4 * MIB, 2 * MIB, 0x7000_0000, MIB], [0, MIB, 0x5000_0000, 0]], files);
    let (message, table, sealed) = Table::sort(message).unwrap();
    assert!(!sealed);
    let sizes: Vec<u64> = message.fds.into_iter().map(|fd| File::from(fd).metadata().unwrap().len()).collect();
    assert_eq!(sizes, [MIB, 3 * MIB]);
    assert_eq!(message.body[8..16], 0_u64.to_ne_bytes());
    assert_eq!(message.body[40..48], (4 * MIB).to_ne_bytes());
    assert_eq!(message.body[64..72], MIB.to_ne_bytes(), "the offset goes with its region");
    assert_eq!(table.guest_address(0x7000_0010, 16), Some(4 * MIB + 16));
    assert_eq!(table.guest_address(0x5000_0000 + MIB - 16, 16), Some(MIB - 16));
    assert_eq!(table.guest_address(0x5000_0000 + MIB - 15, 16), None, "beyond its end");
    assert_eq!(table.guest_address(0x6000_0000, 1), None);
}

#[test]
fn counts_and_lengths_must_agree() {
    assert!(fault(&[], vec![]).contains("0 memory regions"));
    assert!(fault(&[[0, MIB, 0, 0]], vec![]).contains("1 memory regions with 0 files"));
    let two = || vec![memory_file(MIB), memory_file(MIB)];
    assert!(fault(&[[0, MIB, 0, 0]], two()).contains("with 2 files"));
    let mut long = table(&[[0, MIB, 0, 0]], vec![memory_file(MIB)]);
    long.body.push(0);
    assert!(Table::sort(long).unwrap_err().to_string().contains("41 bytes"));
    let mut lying = table(&[[0, MIB, 0, 0]], vec![memory_file(MIB)]);
    lying.body[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(Table::sort(lying).unwrap_err().to_string().contains("4294967295 memory regions"));
    assert!(Table::sort(table(&[], vec![memory_file(MIB)])).is_err());
}

#[test]
fn each_region_is_checked_and_the_fault_says_which() {
    let cases = [
        ([MIB, 0, 0, 0], "it is empty"),
        ([u64::MAX - 4095, MIB, 0, 0], "beyond the 64-bit address space"),
        ([MIB, MIB, u64::MAX - 4095, 0], "beyond the 64-bit address space"),
        ([MIB, MIB, 0, u64::MAX - 4095], "beyond the 64-bit address space"),
        ([MIB, MIB, 0, 512], "no multiple of 4096"),
        ([MIB, 2 * MIB, 0, 0], "its file has only 0x100000 bytes"),
        ([MIB, MIB, 0, 4096], "its file has only 0x100000 bytes"),
    ];
    for (region, complaint) in cases {
        let text = fault(&[[0, 4096, 0x1000, 0], region], vec![memory_file(MIB), memory_file(MIB)]);
        assert!(text.contains(complaint) && text.contains(&format!("at {:#x}", region[0])), "{text}");
    }
}

#[test]
fn files_that_cannot_be_mapped_are_refused() {
    let path = std::env::current_exe().unwrap();
    let read_only = OwnedFd::from(File::open(path).unwrap());
    assert!(fault(&[[0, 4096, 0, 0]], vec![read_only]).contains("share=on"));
    assert!(fault(&[[0, 4096, 0, 0]], vec![some_fd()]).contains("has only 0x0 bytes"));
}

#[test]
fn overlaps_are_found_in_any_order() {
    let files = || vec![memory_file(MIB), memory_file(MIB), memory_file(MIB)];
    let text = fault(&[[2 * MIB, MIB, 0, 0], [0, MIB, 0, 0], [MIB - 4096, MIB, 0, 0]], files());
    assert!(text.contains("0x0 and 0xff000 overlap"), "{text}");
    let adjacent = [[2 * MIB, MIB, 0, 0], [0, MIB, 0, 0], [MIB, MIB, 0, 0]];
    assert!(Table::sort(table(&adjacent, files())).is_ok());
}
