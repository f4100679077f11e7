//! A packet socket: one guest's place at an interface of the host, whose driver and filter sort out what is for that guest. Frames
//! carry virtio-net headers, so that checksums and segmentation are left to whoever needs them done.
use crate::error::UplinkError;
use crate::link::{Link, Links};
use crate::sys::packet::{self as sys, Membership};
use crate::sys::{tap, tcp};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use vonic_frame::MacAddr;
use vonic_queue::IoVecs;

/// Bytes of the virtio-net header that a packet socket leaves out: the number of buffers, which only a driver is told.
pub(crate) const HEADER_GAP: usize = 2;
/// Bytes that the kernel may keep for one guest and direction: some 60 of the largest frames, or 5000 small ones.
const BUFFER: i32 = 4 << 20;
/// Frames that may wait, of the smallest.
const QUEUE: usize = 16384;

/// One guest's packet socket at an interface, which goes with the last reference to it.
#[derive(Debug)]
pub struct Packet {
    fd: OwnedFd,
    vm: String,
    guest: MacAddr,
    interface: String,
    index: u32,
    cookie: u64,
    /// The interface's, as of the last look at it.
    mtu: AtomicU32,
    /// The kernel keeps as much as was asked for.
    roomy: bool,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> UplinkError {
    move |error| UplinkError::Failed(what, error)
}

/// The interface, if guests can be there.
fn interface(name: &str) -> Result<Link, UplinkError> {
    let links = Links::open().map_err(failed("the host's interfaces cannot be asked for"))?;
    let link = links.by_name(name).map_err(|_| UplinkError::NoInterface(name.to_string()))?;
    let unsuited = |why: String| Err(UplinkError::Unsuited(name.to_string(), why));
    if !link.ethernet {
        return unsuited("is no Ethernet interface: name one".into());
    }
    if link.kind == "bridge" {
        return unsuited(format!("is a bridge, which takes in nothing for guests: write uplink = \"tap:{name}\""));
    }
    Ok(link)
}

impl Packet {
    /// Opens one for VM `vm`, whose guest has the MAC address `guest`. It hears nothing yet.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub fn open(vm: &str, guest: MacAddr, name: &str) -> Result<Packet, UplinkError> {
        let link = interface(name)?;
        let fd = sys::open().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => UplinkError::NoPacketSockets,
            _ => UplinkError::Failed("a packet socket cannot be opened", error),
        })?;
        // Before it is bound: at no time is there a frame that is not for this guest.
        sys::set_filter(fd.as_fd(), None).map_err(failed("a packet socket's filter cannot be set"))?;
        sys::prepare(fd.as_fd()).map_err(failed("a packet socket cannot be prepared (Linux 4.20)"))?;
        sys::set_buffers(fd.as_fd(), BUFFER).map_err(failed("a packet socket's room cannot be set"))?;
        sys::bind(fd.as_fd(), link.index).map_err(failed("a packet socket cannot be bound"))?;
        let join = |wanted| sys::add_membership(fd.as_fd(), link.index, wanted);
        // Its own address an interface lets up anyway: where the driver has no filter one more would make it promiscuous.
        if link.address != Some(guest) {
            join(Membership::Unicast(guest)).map_err(failed("the interface does not take a guest's address"))?;
        }
        join(Membership::AllGroups).map_err(failed("the interface does not let groups up"))?;
        Packet::of(fd, (vm, guest), name, &link).map_err(failed("a packet socket cannot be known again"))
    }

    fn of(fd: OwnedFd, (vm, guest): (&str, MacAddr), interface: &str, link: &Link) -> io::Result<Packet> {
        let (cookie, roomy) = (tcp::cookie(fd.as_fd())?, sys::receive_buffer(fd.as_fd())? >= BUFFER);
        let (vm, interface, mtu) = (vm.to_string(), interface.to_string(), AtomicU32::new(link.mtu));
        Ok(Packet { fd, vm, guest, interface, index: link.index, cookie, mtu, roomy })
    }

    /// Takes over the socket of an engine that has died, by its number in the table that engines share and its cookie, with the frames
    /// that wait in it; `None`: the number is another thing's by now, and is left alone, or the socket is at no such interface, and
    /// is closed.
    ///
    /// # Errors
    /// See [`UplinkError`]; the socket is closed then.
    pub fn resume(
        (fd, cookie): (RawFd, u64),
        vm: &str,
        guest: MacAddr,
        name: &str,
    ) -> Result<Option<Packet>, UplinkError> {
        let Some(fd) = tcp::adopt(fd, cookie) else { return Ok(None) };
        let link = interface(name)?;
        if sys::bound_to(fd.as_fd()) != Some(link.index) {
            return Ok(None);
        }
        Packet::of(fd, (vm, guest), name, &link).map(Some).map_err(failed("a packet socket cannot be known again"))
    }

    /// Closes the socket of an engine that has died, if it still is one's.
    pub fn close((fd, cookie): (RawFd, u64)) {
        drop(tcp::adopt(fd, cookie));
    }

    /// Its VM's name.
    pub fn vm(&self) -> &str {
        &self.vm
    }

    /// What tells it from every other socket of this host's, ever (SO_COOKIE).
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Its interface's name, as the configuration has it.
    pub fn name(&self) -> &str {
        &self.interface
    }

    /// The largest packet that its interface takes, as of the last look.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Whether it is at the interface that has this name now: an operator may have made that anew.
    pub fn exists(&self) -> bool {
        sys::bound_to(self.fd.as_fd()) == Some(self.index)
            && interface(&self.interface).is_ok_and(|link| link.index == self.index)
    }

    /// Looks at the interface: what an operator should know of it, if the guest, whose packets have up to `mtu` bytes, reaches others.
    ///
    /// # Errors
    /// Why it does not.
    pub fn look(&self, mtu: u16) -> Result<Vec<String>, UplinkError> {
        let (name, link) = (&self.interface, interface(&self.interface)?);
        self.mtu.store(link.mtu, Ordering::Relaxed);
        if !link.up {
            return Err(UplinkError::Down(name.clone()));
        }
        if link.own_address_only && link.address != Some(self.guest) {
            let why = "is a macvlan that takes in nothing for other addresses than its own: make it in mode passthru, or one \
                       for each guest, with the guest's address";
            return Err(UplinkError::Unsuited(name.clone(), why.into()));
        }
        let mut warnings = Vec::new();
        if link.promiscuity > 0 {
            warnings.push(format!(
                "'{name}' is promiscuous: its driver cannot filter for guests (as veth's and tap's cannot), or somebody else wants it so; \
                 guests get what is for them only, but the host looks at every frame there"
            ));
        }
        if u32::from(mtu) > link.mtu {
            let most = link.mtu;
            warnings.push(format!(
                "'{name}' has an MTU of {most} and the VM one of {mtu}: its larger packets are dropped: ip link set {name} mtu {mtu}, or \
                 write mtu = {most}"
            ));
        }
        if !self.roomy {
            warnings.push(format!(
                "the kernel keeps little of what comes for a guest that is busy: sysctl net.core.rmem_max={BUFFER} \
                 net.core.wmem_max={BUFFER}, or give vonicd CAP_NET_ADMIN"
            ));
        }
        Ok(warnings)
    }

    /// Frames that found no room since this was last asked, by whomever.
    pub fn take_drops(&self) -> u32 {
        sys::take_drops(self.fd.as_fd()).unwrap_or_default()
    }

    /// Whether frames are let up: not for a machine that is off.
    pub(crate) fn set_open(&self, open: bool) {
        // Fails for want of memory only; the filter that stands is the guest's or lets nothing up.
        let _ = sys::set_filter(self.fd.as_fd(), open.then_some(self.guest));
    }

    /// Gives the interface one frame behind a virtio-net header of 10 bytes, in the host's byte order.
    pub(crate) fn send(&self, frame: &IoVecs<'_>) -> io::Result<()> {
        tap::write(self.fd.as_fd(), frame).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOBUFS) => io::ErrorKind::WouldBlock.into(),
            Some(libc::EMSGSIZE) => io::ErrorKind::InvalidInput.into(),
            _ => error,
        })
    }

    /// Takes one frame behind its virtio-net header of 10 bytes; what has no room is lost.
    pub(crate) fn receive(&self, room: &IoVecs<'_>) -> io::Result<Option<usize>> {
        told(|| tap::read(self.fd.as_fd(), room))
    }

    /// The leading bytes of the next frame behind its virtio-net header of 10 bytes, which stays, and the bytes of all of it.
    pub(crate) fn peek(&self, front: &mut [u8]) -> io::Result<Option<usize>> {
        told(|| sys::peek(self.fd.as_fd(), front))
    }

    /// Throws the next frame away.
    pub(crate) fn skip(&self) {
        let _ = told(|| sys::discard(self.fd.as_fd()));
    }

    /// Throws away what waits.
    pub(crate) fn drain(&self) {
        for _ in 0..QUEUE {
            if matches!(told(|| sys::discard(self.fd.as_fd())), Ok(None)) {
                return;
            }
        }
    }
}

/// A call for a frame. That the interface has gone down is told once, before the frames that came until then.
fn told(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    let result = match call() {
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => call(),
        result => result,
    };
    match result {
        Ok(got) => Ok(Some(got)),
        // Of one frame; after any other error there is news when there is something to take again.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(error),
        Err(_) => Ok(None),
    }
}

impl AsRawFd for Packet {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
