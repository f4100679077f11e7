//! A guest's own cable to a network of frames: a tap at a bridge, or a packet socket at an interface. The two differ in how they are
//! made; frames go through them by the same calls.
use crate::packet::{HEADER_GAP, Packet};
use crate::tap::Tap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use vonic_frame::Offloads;
use vonic_queue::IoVecs;

/// One guest's cable.
#[derive(Debug)]
pub enum Cable {
    /// A port of a bridge.
    Tap(Tap),
    /// A place at an interface.
    Packet(Packet),
}

impl Cable {
    /// Its VM's name.
    pub fn vm(&self) -> &str {
        match self {
            Cable::Tap(tap) => tap.vm(),
            Cable::Packet(socket) => socket.vm(),
        }
    }

    /// The interface that frames go through: the guest's own tap, or one that it shares.
    pub fn name(&self) -> &str {
        match self {
            Cable::Tap(tap) => tap.name(),
            Cable::Packet(socket) => socket.name(),
        }
    }

    /// What tells it, with its descriptor, from others: a tap's index, a socket's cookie.
    pub fn cookie(&self) -> u64 {
        match self {
            Cable::Tap(tap) => u64::from(tap.index()),
            Cable::Packet(socket) => socket.cookie(),
        }
    }

    /// Whether it is still there, and leads where it did.
    pub fn exists(&self) -> bool {
        match self {
            Cable::Tap(tap) => tap.exists(),
            Cable::Packet(socket) => socket.exists(),
        }
    }

    /// The largest packet that it takes, if that may be less than its guest's MTU.
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Cable::Tap(_) => None,
            Cable::Packet(socket) => Some(socket.mtu()),
        }
    }

    /// Tells the kernel what the guest can take: it finishes everything else before a frame comes up. A packet socket's frames come
    /// as they are, whatever the guest can take.
    ///
    /// # Errors
    /// The system's.
    pub fn set_offloads(&self, guest: Offloads) -> io::Result<()> {
        match self {
            Cable::Tap(tap) => tap.set_offloads(guest),
            Cable::Packet(_) => Ok(()),
        }
    }

    /// Whether frames come unfinished to a guest that cannot take them so, and have to be looked at with [`Cable::peek`] first.
    pub fn is_raw(&self) -> bool {
        matches!(self, Cable::Packet(_))
    }

    /// How many of the 12 bytes of the virtio-net header (virtio 1.3 §5.1.6) are left out in front of frames: the last ones, the
    /// number of buffers.
    pub fn header_gap(&self) -> usize {
        match self {
            Cable::Tap(_) => 0,
            Cable::Packet(_) => HEADER_GAP,
        }
    }

    /// Sends one frame behind its virtio-net header.
    ///
    /// # Errors
    /// `WouldBlock`: full; EIO, ENETDOWN, ENXIO: down; EBADFD: the device is gone; `InvalidInput`: the kernel takes no such frame.
    pub fn send(&self, frame: &IoVecs<'_>) -> io::Result<()> {
        match self {
            Cable::Tap(tap) => tap.send(frame),
            Cable::Packet(socket) => socket.send(frame),
        }
    }

    /// Takes one frame behind its virtio-net header; what has no room is lost. `None`: no frame waits.
    ///
    /// # Errors
    /// EINVAL: a packet socket had a frame that its header cannot tell of, which is lost; EBADFD: a tap's device is gone.
    pub fn receive(&self, room: &IoVecs<'_>) -> io::Result<Option<usize>> {
        match self {
            Cable::Tap(tap) => tap.receive(room),
            Cable::Packet(socket) => socket.receive(room),
        }
    }

    /// Leading bytes of the next frame, behind its virtio-net header, and how many bytes both have; the frame stays. `None`: no frame
    /// waits, or it is a tap's.
    ///
    /// # Errors
    /// EINVAL: its header cannot be told.
    pub fn peek(&self, front: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Cable::Tap(_) => Ok(None),
            Cable::Packet(socket) => socket.peek(front),
        }
    }

    /// Throws the next frame away.
    pub fn skip(&self) {
        match self {
            Cable::Tap(tap) => tap.skip(),
            Cable::Packet(socket) => socket.skip(),
        }
    }

    /// A guest has started: what came before it was there is not for it.
    pub fn start(&self) {
        match self {
            Cable::Tap(tap) => tap.drain(),
            Cable::Packet(socket) => {
                socket.drain();
                socket.set_open(true);
            }
        }
    }

    /// The guest is off: nothing needs to be kept for it.
    pub fn rest(&self) {
        match self {
            Cable::Tap(_) => {}
            Cable::Packet(socket) => socket.set_open(false),
        }
    }
}

impl AsRawFd for Cable {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Cable::Tap(tap) => tap.as_raw_fd(),
            Cable::Packet(socket) => socket.as_raw_fd(),
        }
    }
}
