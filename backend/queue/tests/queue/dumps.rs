//! Does a core dump leave out what guests' bytes lie in?
use crate::dirty::file;
use std::fs;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MemoryRegionAddress};
use vonic_queue::{DirtyLog, MemoryMap, Undumped, survive_truncation};

const LEN: u64 = 0x1_0000;
const LOG: u64 = 0x53_3000;

/// Whether the mapping with this address is left out of dumps ("dd" among the flags of proc_pid_smaps(5)).
fn is_left_out(address: *const u8) -> bool {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some((start, end)) = first.split_once('-') {
            let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
            inside = (number(start)..number(end)).contains(&address.addr());
        } else if inside && first == "VmFlags:" {
            return rest.split_ascii_whitespace().any(|flag| flag == "dd");
        }
    }
    panic!("{address:?} is not mapped");
}

#[test]
fn guest_memory_is_left_out_also_where_it_was_truncated() {
    survive_truncation().unwrap();
    let file = file(LEN);
    let range = |start| (GuestAddress(start), LEN as usize, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
    let memory = GuestMemoryMmap::<()>::from_ranges_with_files([range(0), range(LEN)]).unwrap();
    let addresses: Vec<*const u8> = memory.iter().map(|region| region.as_ptr().cast_const()).collect();
    assert!(!addresses.iter().any(|&address| is_left_out(address)));
    let map = MemoryMap::new(memory.clone());
    assert!(addresses.iter().all(|&address| is_left_out(address)));
    file.set_len(0).unwrap();
    memory.iter().for_each(|region| drop(region.read_obj::<u8>(MemoryRegionAddress(0))));
    assert!(map.is_lost());
    assert!(addresses.iter().all(|&address| is_left_out(address)));
}

#[test]
fn a_vmms_log_and_what_is_kept_of_guests_are_left_out() {
    let log = DirtyLog::map(file(LOG), 0, LOG).unwrap();
    assert!(is_left_out(mapping_of(LOG)));
    drop(log);
    let mut kept = Undumped::new(100_000);
    assert_eq!(kept.len(), 100_000);
    kept.fill(7);
    assert!(kept.iter().all(|&byte| byte == 7));
    assert!(is_left_out(kept.as_ptr()));
}

/// The start of the mapping of so many bytes; the tests beside this one have none as long.
fn mapping_of(len: u64) -> *const u8 {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let bounds = maps.lines().map(|line| line.split_once(' ').unwrap().0.split_once('-').unwrap());
    let (start, _) =
        bounds.map(|(start, end)| (number(start), number(end))).find(|(start, end)| end - start == len).unwrap();
    std::ptr::with_exposed_provenance(start as usize)
}
