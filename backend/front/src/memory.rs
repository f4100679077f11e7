//! The memory map that a VMM sends: checked before the engine maps anything of it.
use crate::handover::RegionState;
use crate::message::Message;
use crate::sys;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

mod effective;

pub(crate) use effective::Effective;

/// Most regions: the crates take no more descriptors with one message, and a table that grew by ADD_MEM_REG is replayed as
/// one SET_MEM_TABLE.
pub(crate) const MAX_REGIONS: u32 = 32;
const TABLE_HEADER: usize = 8;
const REGION: usize = 32;
/// ADD_MEM_REG and REM_MEM_REG: padding, then the region (vhost-user specification, "Single memory region description").
const SINGLE_HEADER: usize = 8;
/// mmap(2) wants offsets in whole pages; the smallest page that any supported host has.
const PAGE: u64 = 4096;
/// File systems whose pages a program or another machine serves: FUSE, NFS, SMB, CIFS, SMB2, 9P, Ceph, AFS (statfs(2)). Whoever touches such
/// memory waits for them, and that would be a worker that has other guests.
const SERVED_ELSEWHERE: &[u32] =
    &[0x6573_5546, 0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400, 0x5346_414f];

/// One region of guest memory. Addresses and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Guest-physical.
    pub(crate) guest: u64,
    pub(crate) size: u64,
    /// The VMM's own address: ring addresses come as these.
    pub(crate) user: u64,
    /// Where in its file it begins.
    pub(crate) offset: u64,
}

/// The regions of a table, by guest address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table(Vec<Region>);

/// Why a table is refused.
#[derive(Debug)]
pub(crate) enum MemoryError {
    Count { regions: u32, fds: usize },
    Length { bytes: usize, regions: u32 },
    Region { region: Region, why: Fault },
    Overlap(Region, Region),
    Single { bytes: usize, fds: usize },
    Full(Region),
    Unknown(Region),
}

/// What is wrong with one region.
#[derive(Debug)]
pub(crate) enum Fault {
    Empty,
    Overflow,
    Unaligned,
    BeyondFile { file_size: u64 },
    NotWritable,
    ServedElsewhere,
    File(io::Error),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryError::Count { regions, fds } => {
                write!(f, "{regions} memory regions with {fds} files: 1 to {MAX_REGIONS} are possible, a file for each")
            }
            MemoryError::Length { bytes, regions } => {
                write!(f, "a memory table of {bytes} bytes cannot hold {regions} regions")
            }
            MemoryError::Overlap(a, b) => {
                write!(
                    f,
                    "memory regions at {:#x} and {:#x} overlap (the first has {:#x} bytes)",
                    a.guest, b.guest, a.size
                )
            }
            MemoryError::Single { bytes, fds } => {
                write!(f, "one memory region in {bytes} bytes with {fds} files: 40 bytes and one file are it")
            }
            MemoryError::Full(region) => {
                write!(f, "memory region at {:#x}: all {MAX_REGIONS} slots are taken", region.guest)
            }
            MemoryError::Unknown(region) => {
                write!(f, "there is no memory region at {:#x} of {:#x} bytes to remove", region.guest, region.size)
            }
            MemoryError::Region { region, why } => {
                write!(
                    f,
                    "memory region at {:#x} ({:#x} bytes, file offset {:#x}): ",
                    region.guest, region.size, region.offset
                )?;
                match why {
                    Fault::Empty => write!(f, "it is empty"),
                    Fault::Overflow => write!(f, "it goes beyond the 64-bit address space"),
                    Fault::Unaligned => write!(f, "its file offset is no multiple of {PAGE}"),
                    Fault::BeyondFile { file_size } => write!(
                        f,
                        "its file has only {file_size:#x} bytes; give the memory backend a file of the guest's full size"
                    ),
                    Fault::NotWritable => {
                        write!(f, "its file cannot be written; set share=on, and no write seal, at the memory backend")
                    }
                    Fault::ServedElsewhere => write!(
                        f,
                        "its file is served by a program or another machine; give the memory backend a memfd, or a file of this host's memory (/dev/shm, hugetlbfs)"
                    ),
                    Fault::File(e) => write!(f, "its file cannot be examined: {e}"),
                }
            }
        }
    }
}

impl Table {
    /// Checks SET_MEM_TABLE and puts its regions, and their files with them, in the order of guest addresses, which the
    /// crates want. True: every file is sealed against becoming shorter under the engine's mapping.
    pub(crate) fn sort(message: Message) -> Result<(Message, Table, bool), MemoryError> {
        let count = message.u32_at(0).unwrap_or(0);
        if count == 0 || count > MAX_REGIONS || message.fds.len() != count as usize {
            return Err(MemoryError::Count { regions: count, fds: message.fds.len() });
        }
        if message.body.len() != TABLE_HEADER + count as usize * REGION {
            return Err(MemoryError::Length { bytes: message.body.len(), regions: count });
        }
        let Message { code, flags, body, fds } = message;
        let regions = body[TABLE_HEADER..].chunks_exact(REGION).map(region);
        let mut regions: Vec<(Region, OwnedFd)> = regions.zip(fds).collect();
        regions.sort_by_key(|(region, _)| region.guest);
        let mut sealed = true;
        for (region, file) in &regions {
            sealed &= examine(region, file)?;
        }
        let (regions, fds): (Vec<Region>, Vec<OwnedFd>) = regions.into_iter().unzip();
        apart(&regions)?;
        Ok((Message { code, flags, body: table(&regions), fds }, Table(regions), sealed))
    }

    pub(crate) fn save(&self) -> Vec<RegionState> {
        let Table(regions) = self;
        regions.iter().map(|&Region { guest, size, user, offset }| [guest, size, user, offset]).collect()
    }

    pub(crate) fn restore(state: &[RegionState]) -> Table {
        Table(state.iter().map(|&[guest, size, user, offset]| Region { guest, size, user, offset }).collect())
    }

    /// Checks ADD_MEM_REG and takes its region in, if this table has room for it. True: its file is sealed as in
    /// [`Table::sort`].
    pub(crate) fn add(&mut self, message: &Message) -> Result<bool, MemoryError> {
        let ([file], Some(region)) = (message.fds.as_slice(), single(message)) else {
            return Err(MemoryError::Single { bytes: message.body.len(), fds: message.fds.len() });
        };
        let sealed = examine(&region, file)?;
        if self.0.len() >= MAX_REGIONS as usize {
            return Err(MemoryError::Full(region));
        }
        let place = self.0.partition_point(|r| r.guest < region.guest);
        let mut regions = self.0.clone();
        regions.insert(place, region);
        apart(&regions)?;
        self.0 = regions;
        Ok(sealed)
    }

    /// Takes out the region that REM_MEM_REG names: by guest address, size and the VMM's address. The file offset does not
    /// count: QEMU sends 0 for it.
    pub(crate) fn remove(&mut self, message: &Message) -> Result<(), MemoryError> {
        let Some(region) = single(message) else {
            return Err(MemoryError::Single { bytes: message.body.len(), fds: message.fds.len() });
        };
        let place = self.0.iter().position(|r| r.is(&region)).ok_or(MemoryError::Unknown(region))?;
        self.0.remove(place);
        Ok(())
    }

    /// What is wrong with SET_VRING_ADDR: index, flags, descriptor table, used ring, available ring, log; the three are the
    /// VMM's addresses.
    pub(crate) fn ring_fault(&self, message: &Message) -> Option<String> {
        // Alignment: virtio 1.3 §2.7. Of each area the first bytes must lie in guest memory, which is what the crate
        // translates and reads; the worker checks the rest when the ring starts.
        for (what, at, align, length) in
            [("descriptor table", 8, 16, 16), ("used ring", 16, 4, 4), ("available ring", 24, 2, 4)]
        {
            let user = message.u64_at(at)?;
            let Some(guest) = self.guest_address(user, length) else {
                return Some(format!("its {what} at {user:#x} is in no memory region"));
            };
            if user % align != 0 || guest % align != 0 {
                return Some(format!("its {what} at {user:#x} is not aligned to {align} bytes"));
            }
        }
        None
    }

    /// The first guest-physical address behind all regions.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, |region| region.guest + region.size)
    }

    /// The table of a SET_MEM_TABLE that has been checked.
    fn of(message: &Message) -> Table {
        Table(message.body.get(TABLE_HEADER..).into_iter().flat_map(|b| b.chunks_exact(REGION)).map(region).collect())
    }

    /// The guest-physical address of `length` bytes at the VMM's address `user`, if one region holds them all.
    pub(crate) fn guest_address(&self, user: u64, length: u64) -> Option<u64> {
        let region = self.0.iter().find(|r| user >= r.user && user - r.user < r.size)?;
        let offset = user - region.user;
        (length <= region.size - offset).then(|| region.guest + offset)
    }
}

impl Region {
    /// Does REM_MEM_REG mean this one?
    fn is(&self, other: &Region) -> bool {
        (self.guest, self.size, self.user) == (other.guest, other.size, other.user)
    }
}

/// The region of ADD_MEM_REG and REM_MEM_REG.
fn single(message: &Message) -> Option<Region> {
    let bytes = message.body.get(SINGLE_HEADER..)?;
    (bytes.len() == REGION).then(|| region(bytes))
}

fn examine(region: &Region, file: &OwnedFd) -> Result<bool, MemoryError> {
    check(region, file).map_err(|why| MemoryError::Region { region: *region, why })
}

/// No two of the regions, which are in order, may overlap in the guest.
fn apart(regions: &[Region]) -> Result<(), MemoryError> {
    match regions.windows(2).find(|pair| matches!(pair, [low, high] if low.guest + low.size > high.guest)) {
        Some([low, high]) => Err(MemoryError::Overlap(*low, *high)),
        _ => Ok(()),
    }
}

fn region(bytes: &[u8]) -> Region {
    let word = |i: usize| bytes[i * 8..].first_chunk().copied().map_or(0, u64::from_ne_bytes);
    Region { guest: word(0), size: word(1), user: word(2), offset: word(3) }
}

fn table(regions: &[Region]) -> Vec<u8> {
    let mut body = Vec::with_capacity(TABLE_HEADER + regions.len() * REGION);
    body.extend((regions.len() as u32).to_ne_bytes());
    body.extend([0; 4]);
    for r in regions {
        for word in [r.guest, r.size, r.user, r.offset] {
            body.extend(word.to_ne_bytes());
        }
    }
    body
}

fn check(region: &Region, file: &OwnedFd) -> Result<bool, Fault> {
    if region.size == 0 {
        return Err(Fault::Empty);
    }
    let ends = [region.guest, region.user, region.offset].map(|start| start.checked_add(region.size));
    let [Some(_), Some(_), Some(end)] = ends else { return Err(Fault::Overflow) };
    if !region.offset.is_multiple_of(PAGE) {
        return Err(Fault::Unaligned);
    }
    // Before anything that whoever serves it would be asked for.
    if SERVED_ELSEWHERE.contains(&sys::file_system(file.as_fd()).map_err(Fault::File)?) {
        return Err(Fault::ServedElsewhere);
    }
    let file_size = file.try_clone().and_then(|file| File::from(file).metadata()).map_err(Fault::File)?.len();
    if end > file_size {
        return Err(Fault::BeyondFile { file_size });
    }
    let usage = sys::fd_use(file.as_fd()).map_err(Fault::File)?;
    if usage.writable { Ok(usage.cannot_shrink) } else { Err(Fault::NotWritable) }
}

#[cfg(test)]
mod tests;
