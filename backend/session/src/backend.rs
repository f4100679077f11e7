//! The device as the daemon asks for it: features, configuration space, memory.
use crate::ring::Ring;
use crate::{EventSink, Memory, Port, PortEvent};
use std::io;
use std::sync::Arc;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vonic_queue::MemoryMap;

/// The largest ring: what QEMU, cloud-hypervisor and DPDK ask for at most.
const RING_MAX: usize = 1024;
/// VIRTIO_NET_F_CTRL_VQ: there is a queue behind the pairs (virtio 1.3 §5.1.2).
const CTRL_VQ: u64 = 1 << 17;
/// VIRTIO_NET_S_LINK_UP (virtio 1.3 §5.1.4).
const LINK_UP: u16 = 1;

/// One VM's device.
pub struct Backend<S> {
    port: Arc<Port<S>>,
}

impl<S: EventSink> Backend<S> {
    pub fn new(port: Arc<Port<S>>) -> Backend<S> {
        Backend { port }
    }

    /// The configuration space of virtio 1.3 §5.1.4: mac, status, max_virtqueue_pairs, mtu.
    fn config(&self) -> [u8; 12] {
        let spec = &self.port.spec;
        let mut space = [0; 12];
        space[..6].copy_from_slice(&spec.mac);
        space[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        space[8..10].copy_from_slice(&spec.queue_pairs.to_le_bytes());
        space[10..12].copy_from_slice(&spec.mtu.to_le_bytes());
        space
    }
}

impl<S: EventSink> VhostUserBackend for Backend<S> {
    type Bitmap = ();
    type Vring = Ring<S>;

    fn num_queues(&self) -> usize {
        let control = self.port.spec.features & CTRL_VQ != 0;
        usize::from(self.port.spec.queue_pairs) * 2 + usize::from(control)
    }

    fn max_queue_size(&self) -> usize {
        RING_MAX
    }

    fn features(&self) -> u64 {
        self.port.spec.features
    }

    fn acked_features(&self, features: u64) {
        self.port.emit(PortEvent::Features(features));
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn reset_device(&self) {
        self.port.emit(PortEvent::Reset);
    }

    // Each ring is told by itself.
    fn set_event_idx(&self, _enabled: bool) {}

    /// Bytes beyond the configuration space read as 0.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = self.config();
        (0..size as usize).map(|i| space.get(offset as usize + i).copied().unwrap_or(0)).collect()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let map: GuestMemoryMmap<()> = GuestMemoryMmap::clone(&memory.memory());
        self.port.emit_and_wait(|done| PortEvent::Memory(Arc::new(MemoryMap::new(map)), done))
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // No workers of the crate's: vonic's own touch the rings.
        Vec::new()
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        self.port.emit_and_wait(|done| PortEvent::RingStopped { index: index as u16, done })
    }

    fn handle_event(&self, _: u16, _: EventSet, _: &[Ring<S>], _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
