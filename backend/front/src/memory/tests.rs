use super::*;
use crate::message::Request::{AddMemReg, RemMemReg, SetMemTable};
use crate::testing::{memory_file, message, single, some_fd, table};

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
fn files_of_other_machines_and_programs_are_no_memory() {
    // FUSE and NFS; memfd and tmpfs, hugetlbfs, ext4, xfs.
    assert!([0x6573_5546, 0x6969].iter().all(|kind| SERVED_ELSEWHERE.contains(kind)));
    assert!(![0x0102_1994, 0x9584_58f6, 0xef53, 0x5846_5342].iter().any(|kind| SERVED_ELSEWHERE.contains(kind)));
    assert_eq!(sys::file_system(File::open("/proc/self/stat").unwrap().as_fd()).unwrap(), 0x9fa0);
    let region = Region { guest: 0, size: MIB, user: 0, offset: 0 };
    let text = MemoryError::Region { region, why: Fault::ServedElsewhere }.to_string();
    assert!(text.contains("memfd"), "{text}");
}

#[test]
fn overlaps_are_found_in_any_order() {
    let files = || vec![memory_file(MIB), memory_file(MIB), memory_file(MIB)];
    let text = fault(&[[2 * MIB, MIB, 0, 0], [0, MIB, 0, 0], [MIB - 4096, MIB, 0, 0]], files());
    assert!(text.contains("0x0 and 0xff000 overlap"), "{text}");
    let adjacent = [[2 * MIB, MIB, 0, 0], [0, MIB, 0, 0], [MIB, MIB, 0, 0]];
    assert!(Table::sort(table(&adjacent, files())).is_ok());
}

/// The guest addresses and file sizes of a replayed table, in its order.
fn shape(effective: &Effective) -> Vec<(u64, u64)> {
    let message = effective.message().unwrap();
    assert_eq!(message.request(), Some(SetMemTable));
    assert_eq!(message.u32_at(0), Some(message.fds.len() as u32));
    let copies = message.fds.iter().map(|fd| File::from(fd.try_clone().unwrap()));
    effective
        .table()
        .0
        .iter()
        .zip(copies)
        .map(|(region, file)| (region.guest, file.metadata().unwrap().len()))
        .collect()
}

#[test]
fn the_effective_table_follows_what_was_added_and_removed() {
    let mut effective = Effective::default();
    let region = |at: u64| [at * MIB, MIB, (100 + at) * MIB, 0];
    let add = |at| single(AddMemReg, region(at), vec![memory_file((at + 1) * MIB)]);
    assert!(effective.message().is_none());
    effective.add(add(4));
    effective.add(add(0));
    effective.add(add(2));
    assert_eq!(shape(&effective), [(0, MIB), (2 * MIB, 3 * MIB), (4 * MIB, 5 * MIB)]);
    effective.remove(&single(RemMemReg, region(2), vec![]));
    effective.remove(&single(RemMemReg, region(3), vec![]));
    assert_eq!(shape(&effective), [(0, MIB), (4 * MIB, 5 * MIB)]);
    let (whole, _, _) =
        Table::sort(table(&[region(7), region(6)], vec![memory_file(8 * MIB), memory_file(7 * MIB)])).unwrap();
    effective.set(whole);
    effective.add(add(5));
    assert_eq!(shape(&effective), [(5 * MIB, 6 * MIB), (6 * MIB, 7 * MIB), (7 * MIB, 8 * MIB)]);
    for at in [6, 5, 7] {
        effective.remove(&single(RemMemReg, region(at), vec![]));
    }
    assert!(effective.message().is_none(), "a table of no regions is none");
    effective.add(message(AddMemReg, [0; 8], vec![]));
    assert!(effective.message().is_none());
}

#[test]
fn any_order_of_messages_replays_as_a_table_that_the_front_would_take() {
    let (mut effective, mut kept) = (Effective::default(), Table::default());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for step in 0..2000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = seed % 40;
        let region = [at * MIB, MIB, (100 + at) * MIB, 0];
        if seed >> 32 & 1 == 0 {
            let message = single(AddMemReg, region, vec![memory_file((1 + at) * MIB)]);
            if kept.add(&message).is_ok() {
                effective.add(message);
            }
        } else if kept.remove(&single(RemMemReg, region, vec![])).is_ok() {
            effective.remove(&single(RemMemReg, region, vec![]));
        }
        assert_eq!(effective.table().0, kept.0, "step {step}");
        if !kept.0.is_empty() {
            assert!(shape(&effective).iter().all(|&(guest, file)| guest + MIB == file), "each with its file");
            let message = effective.message().unwrap();
            let fds = message.fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
            let again = Message { code: message.code, flags: message.flags, body: message.body.clone(), fds };
            assert_eq!(Table::sort(again).unwrap().1.0, kept.0);
        }
    }
}
