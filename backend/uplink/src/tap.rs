//! A tap device: one guest's port of a bridge of the host. Frames carry virtio-net headers, so that checksums and
//! segmentation are left to whoever needs them done.
use crate::error::{UplinkError, failed};
use crate::link::Links;
use crate::sys::tap as sys;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use vonic_frame::{MacAddr, Offloads};
use vonic_queue::IoVecs;

/// Bytes of an interface's name, at most (IFNAMSIZ less the terminating zero).
const NAME_MAX: usize = 15;
/// Frames that may wait in a device: TUN_READQ_SIZE, and as much again for an operator who made its queue longer.
const QUEUE: usize = 1000;

/// A tap device, which goes with the last reference to it.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    index: u32,
    vm: String,
}

impl Tap {
    /// Creates a tap for VM `vm` whose guest has the MAC address `guest`: down, and a port of nothing. It is called
    /// `vonic-VM` if that is short enough and free, else by `vonic` and a number; its alias names the VM.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub fn create(vm: &str, guest: MacAddr, mtu: u16) -> Result<Tap, UplinkError> {
        let fd = sys::open().map_err(UplinkError::NoDevice)?;
        let wanted = format!("vonic-{vm}");
        let own = if wanted.len() <= NAME_MAX { sys::create(fd.as_fd(), &wanted).ok() } else { None };
        let name = match own {
            Some(name) => name,
            None => sys::create(fd.as_fd(), "vonic%d").map_err(failed("a tap cannot be made"))?,
        };
        sys::set_header(fd.as_fd()).map_err(failed("a tap's header cannot be set"))?;
        sys::set_filter(fd.as_fd(), guest).map_err(failed("a tap's filter cannot be set"))?;
        let links = Links::open().map_err(failed("the host's interfaces cannot be asked for"))?;
        let link = links.by_name(&name).map_err(failed("a tap cannot be found"))?;
        let tap = Tap { fd, name, index: link.index, vm: vm.into() };
        tap.set_offloads(Offloads::default()).map_err(failed("a tap's offloads cannot be set"))?;
        // A bridge takes the lowest address of its ports for its own: this one is high, so that no guest changes it.
        let MacAddr([_, b, c, d, e, f]) = link.address.unwrap_or_default();
        let (address, alias) = (MacAddr([0xfe, b, c, d, e, f]), format!("vonic: {vm}"));
        links.prepare(tap.index, address, mtu, &alias).map_err(failed("a tap's MTU cannot be set"))?;
        // The host itself has nothing to say on a guest's cable. Without IPv6 there is nothing to keep away.
        let _ = links.without_ipv6_address(tap.index);
        Ok(tap)
    }

    /// Takes over the tap of an engine that has died, by its number in the table that engines share, with the frames that wait in it;
    /// `None`: the number is another thing's by now, and is left alone, or the interface is gone.
    ///
    /// # Errors
    /// See [`UplinkError`]; the tap goes then.
    pub fn resume((fd, index): (RawFd, u32), vm: &str, guest: MacAddr) -> Result<Option<Tap>, UplinkError> {
        let Some((fd, name)) = sys::adopt(fd) else { return Ok(None) };
        let links = Links::open().map_err(failed("the host's interfaces cannot be asked for"))?;
        if links.by_name(&name).ok().map(|link| link.index) != Some(index) {
            return Ok(None);
        }
        sys::set_filter(fd.as_fd(), guest).map_err(failed("a tap's filter cannot be set"))?;
        Ok(Some(Tap { fd, name, index, vm: vm.into() }))
    }

    /// Its VM's name.
    pub fn vm(&self) -> &str {
        &self.vm
    }

    /// Its interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Makes it an isolated port of `bridge`, and puts it up. Nothing is done where that is so already. As long as it is
    /// no port it is down: the host must not take a guest's frames for its own.
    ///
    /// # Errors
    /// See [`UplinkError`]; the tap is down then.
    pub fn join(&self, bridge: &str) -> Result<(), UplinkError> {
        let links = Links::open().map_err(failed("the host's interfaces cannot be asked for"))?;
        let own = links.by_index(self.index).map_err(failed("the tap is gone"))?;
        let master = links.by_name(bridge);
        if own.up && master.as_ref().is_ok_and(|m| own.master == Some(m.index)) {
            return Ok(());
        }
        links.set_up(self.index, false).map_err(failed("a tap cannot be put down"))?;
        let master = master.map_err(|_| UplinkError::NoBridge(bridge.to_string()))?;
        if master.kind != "bridge" {
            return Err(UplinkError::NotABridge(bridge.to_string(), master.kind));
        }
        links.set_master(self.index, master.index).map_err(failed("the tap cannot join the bridge"))?;
        links.isolate(self.index).map_err(failed("the tap cannot be made an isolated port (Linux 4.18)"))?;
        links.set_up(self.index, true).map_err(failed("the tap cannot be put up"))
    }

    /// Whether the device is still there: an operator can delete it.
    pub fn exists(&self) -> bool {
        Links::open().and_then(|links| links.by_index(self.index)).is_ok()
    }

    /// Sets what the guest can take: the kernel finishes everything else before a frame comes up.
    ///
    /// # Errors
    /// The system's.
    pub fn set_offloads(&self, guest: Offloads) -> io::Result<()> {
        let bit = |on: bool, bit: libc::c_uint| if on { bit } else { 0 };
        // Segmentation needs partial checksums (virtio 1.3 §5.1.3.1, and so does the kernel).
        let tso4 = bit(guest.csum && guest.tso4, libc::TUN_F_TSO4);
        let tso6 = bit(guest.csum && guest.tso6, libc::TUN_F_TSO6);
        let ecn = bit(guest.ecn && tso4 | tso6 != 0, libc::TUN_F_TSO_ECN);
        sys::set_offloads(self.fd.as_fd(), bit(guest.csum, libc::TUN_F_CSUM) | tso4 | tso6 | ecn)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the host one frame behind a virtio-net header of 12 bytes.
    ///
    /// # Errors
    /// `WouldBlock`: full; EIO: down; EBADFD: the device is gone; EINVAL: the kernel takes no such frame.
    pub fn send(&self, frame: &IoVecs<'_>) -> io::Result<()> {
        sys::write(self.fd.as_fd(), frame)
    }

    /// Takes one frame behind its virtio-net header of 12 bytes; what has no room is lost. `None`: no frame waits.
    ///
    /// # Errors
    /// EBADFD: the device is gone.
    pub fn receive(&self, room: &IoVecs<'_>) -> io::Result<Option<usize>> {
        match sys::read(self.fd.as_fd(), room) {
            Ok(got) => Ok(Some(got)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Throws the next frame away.
    pub(crate) fn skip(&self) {
        sys::discard(self.fd.as_fd());
    }

    /// Throws away what waits in the device; at most what fits into its queue.
    pub fn drain(&self) {
        for _ in 0..QUEUE {
            if !sys::discard(self.fd.as_fd()) {
                return;
            }
        }
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
