//! What the unit tests share: memory files, message bodies, and the recorded traces of real VMMs.
use crate::message::{Message, Request};
use std::fs::File;
use std::os::fd::OwnedFd;
use vmm_sys_util::tempfile::TempFile;

/// A file of this many bytes, without a name.
pub(crate) fn memory_file(size: u64) -> OwnedFd {
    let mut file = TempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file.remove().unwrap();
    file.as_file().try_clone().unwrap().into()
}

/// Any descriptor.
pub(crate) fn some_fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// A request with this body and these descriptors.
pub(crate) fn message(request: Request, body: impl Into<Vec<u8>>, fds: Vec<OwnedFd>) -> Message {
    Message { fds, ..Message::new(request, body.into()) }
}

/// SET_MEM_TABLE: guest address, size, user address and offset of each region.
pub(crate) fn table(regions: &[[u64; 4]], fds: Vec<OwnedFd>) -> Message {
    let mut body = (regions.len() as u64).to_ne_bytes().to_vec();
    body.extend(regions.iter().flatten().flat_map(|word| word.to_ne_bytes()));
    message(Request::SetMemTable, body, fds)
}

/// ADD_MEM_REG or REM_MEM_REG of a region as in [`table`].
pub(crate) fn single(request: Request, region: [u64; 4], fds: Vec<OwnedFd>) -> Message {
    let [guest, size, user, offset] = region;
    message(request, [0, guest, size, user, offset].map(u64::to_ne_bytes).concat(), fds)
}

/// A ring's index and a number.
pub(crate) fn ring(request: Request, index: u32, value: u32) -> Message {
    message(request, [index, value].map(u32::to_ne_bytes).concat(), Vec::new())
}

/// SET_VRING_ADDR with the areas at these addresses of the VMM.
pub(crate) fn ring_addresses(index: u32, flags: u32, descriptors: u64, used: u64, available: u64) -> Message {
    let mut body = [index, flags].map(u32::to_ne_bytes).concat();
    body.extend([descriptors, used, available, 0].map(u64::to_ne_bytes).concat());
    message(Request::SetVringAddr, body, Vec::new())
}

/// A number of 64 bits.
pub(crate) fn number(request: Request, value: u64) -> Message {
    message(request, value.to_ne_bytes(), Vec::new())
}

/// What a VMM sent in a recording, with as many descriptors as it had then.
pub(crate) fn recorded_requests(trace: &str) -> Vec<Message> {
    trace.lines().filter(|line| line.starts_with('>')).map(recorded).collect()
}

fn recorded(line: &str) -> Message {
    let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)).unwrap();
    let body = field("body=").as_bytes().chunks(2);
    Message {
        code: field("code=").parse().unwrap(),
        flags: u32::from_str_radix(field("flags=0x"), 16).unwrap(),
        body: body.map(|hex| u8::from_str_radix(str::from_utf8(hex).unwrap(), 16).unwrap()).collect(),
        fds: (0..field("fds=").parse::<usize>().unwrap()).map(|_| some_fd()).collect(),
    }
}

pub(crate) const QEMU: &str = include_str!("../tests/traces/qemu-11.1.txt");
/// With memory by ADD_MEM_REG, of which a DIMM was plugged in and out again, and RESET_DEVICE.
pub(crate) const QEMU_SLOTS: &str = include_str!("../tests/traces/qemu-11.1-slots.txt");
pub(crate) const UML: &str = include_str!("../tests/traces/uml-7.2.txt");
pub(crate) const CLOUD_HYPERVISOR: &str = include_str!("../tests/traces/cloud-hypervisor-53.txt");
